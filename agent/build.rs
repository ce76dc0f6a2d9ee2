//! Embeds the kernel programs that `cargo xtask ebpf` builds. Without them the agent builds and runs, reports at start that
//! it has no kernel programs, and uses engine metrics only.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
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
        println!("cargo::warning=no kernel programs to embed; run `cargo xtask ebpf` to build them");
    }
    Ok(())
}
