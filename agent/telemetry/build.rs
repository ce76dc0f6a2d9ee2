//! Generates the telemetry protocol.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(
        ["forebay/telemetry/v1/telemetry.proto", "forebay/telemetry/v1/recording.proto"],
        ["proto"],
    )?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=proto/forebay");
    Ok(())
}
