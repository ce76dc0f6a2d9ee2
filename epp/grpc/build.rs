//! Generates the ext_proc messages.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["envoy/service/ext_proc/v3/external_processor.proto", "forebay/ext_proc/v1/prompt.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").include_file("ext_proc.rs").compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
