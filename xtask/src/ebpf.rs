//! Builds the eBPF programs.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    run,
    toolchain::{BPF_TARGET, Compiler, bpf_linker, compiler},
};

/// The object file, which `agent/build.rs` embeds.
pub(crate) fn object() -> PathBuf {
    run::root().join("target/bpf/forebay-ebpf.o")
}

pub(crate) fn build() -> Result<()> {
    let Some(compiler) = compiler() else {
        bail!(
            "no Rust toolchain for {BPF_TARGET} found. Install one with `rustup toolchain install nightly -c rust-src`, or on \
             Debian with `cargo xtask setup` (packages rustc-web and libstd-rust-web-dev-bpf)"
        );
    };
    let target_dir = run::root().join("target/bpf-build");
    let mut cargo = match &compiler {
        Compiler::Nightly => {
            let mut cargo = Command::new("rustup");
            cargo.args(["run", "nightly", "cargo"]).current_dir(run::root());
            // Set by the cargo that started xtask.
            cargo.env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
            cargo
        }
        Compiler::Prebuilt(rustc) => {
            let mut cargo = run::cargo();
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            cargo
        }
    };
    cargo.args(["build", "--quiet", "--release", "--package", "forebay-agent-ebpf", "--bin", "forebay-ebpf"]);
    cargo.args(["--features", "kernel", "--target", BPF_TARGET, "--target-dir"]).arg(&target_dir);
    if matches!(compiler, Compiler::Nightly) {
        cargo.args(["-Z", "build-std=core"]);
    }
    // Flags for the eBPF programs and their dependencies only.
    let mut flags = vec![
        "--cfg=bpf_target_arch=\"x86_64\"".replace("x86_64", std::env::consts::ARCH),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "-Ctarget-cpu=v3".into(),
    ];
    flags.extend(run::remap_paths());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", bpf_linker());
    run::step("building the eBPF programs", &mut cargo)?;

    let built = target_dir.join(BPF_TARGET).join("release/forebay-ebpf");
    let fresh = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let object = object();
    // Write only on changes: a new mtime would rebuild the agent.
    if fs::read(&object).ok().as_deref() != Some(fresh.as_slice()) {
        fs::create_dir_all(object.parent().unwrap_or(&target_dir))?;
        fs::write(&object, fresh).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(())
}

/// Builds them, or reports why that is not possible.
pub(crate) fn build_if_possible() {
    if let Err(error) = build() {
        run::say(&format!("skipped: eBPF programs; the agent will only scrape engine metrics: {error:#}"));
    }
}
