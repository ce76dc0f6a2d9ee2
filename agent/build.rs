//! Generates the telemetry contract, and embeds the kernel programs where
//! `cargo xtask ebpf` has built them.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(["forebay/telemetry/v1/telemetry.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=proto");

    if env::var_os("CARGO_FEATURE_NODE").is_some() {
        embed_kernel_programs()?;
    }
    Ok(())
}

/// A build without the kernel programs is still a whole agent: it says at start
/// that it carries none, and goes on with the scrape.
fn embed_kernel_programs() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(kernel_programs)");
    println!("cargo::rerun-if-env-changed=FOREBAY_EBPF_OBJECT");
    let object = match env::var_os("FOREBAY_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../target/bpf/forebay-ebpf.o"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    if object.exists() {
        println!("cargo::rustc-cfg=kernel_programs");
        let out = PathBuf::from(env::var("OUT_DIR")?).join("forebay-ebpf.o");
        fs::copy(&object, out)?;
    } else {
        println!("cargo::warning=no kernel programs to embed; build them with `cargo xtask ebpf`");
    }
    Ok(())
}
