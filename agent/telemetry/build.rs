//! Generates the telemetry contract.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["forebay/telemetry/v1/telemetry.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
