//! Builds the kernel programs, with whichever Rust on this machine can.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{run, setup};

const TARGET: &str = "bpfel-unknown-none";
/// Debian's Rust, and `core` for the BPF target as Debian packages it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A Rust that can compile for the BPF target.
pub(crate) enum Compiler {
    /// rustup's nightly with rust-src: `core` is built along.
    Nightly,
    /// A compiler with a prebuilt `core`.
    Prebuilt(PathBuf),
}

/// The first that this machine has; the object is the same.
pub(crate) fn compiler() -> Option<Compiler> {
    let nightly = run::output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    if nightly.is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir()) {
        return Some(Compiler::Nightly);
    }
    let sysroot = run::output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))?;
    let core = Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib");
    core.is_dir().then(|| Compiler::Prebuilt(PathBuf::from(DEBIAN_RUSTC)))
}

/// Where the object goes; `agent/build.rs` embeds it from there.
pub(crate) fn object() -> PathBuf {
    run::root().join("target/bpf/forebay-ebpf.o")
}

pub(crate) fn build() -> Result<()> {
    let Some(compiler) = compiler() else {
        bail!(
            "no Rust on this machine compiles for {TARGET}. Either `rustup toolchain install nightly -c rust-src`, \
             or (Debian) `apt-get install rustc-web libstd-rust-web-dev-bpf`; `cargo xtask setup` does the latter"
        );
    };
    let target_dir = run::root().join("target/bpf-build");
    let mut cargo = match &compiler {
        Compiler::Nightly => {
            let mut cargo = Command::new("rustup");
            cargo.args(["run", "nightly", "cargo"]).current_dir(run::root());
            // Set for this task by the cargo that started it.
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
    cargo.args(["--features", "kernel", "--target", TARGET, "--target-dir"]).arg(&target_dir);
    if matches!(compiler, Compiler::Nightly) {
        cargo.args(["-Z", "build-std=core"]);
    }
    // No dependency of a kernel program is linked by anything else.
    let mut flags = vec![
        "--cfg=bpf_target_arch=\"x86_64\"".replace("x86_64", std::env::consts::ARCH),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "-Ctarget-cpu=v3".into(),
    ];
    flags.extend(run::without_paths_of_this_machine());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", setup::bpf_linker());
    run::step("building the kernel programs", &mut cargo)?;

    let built = target_dir.join(TARGET).join("release/forebay-ebpf");
    let fresh = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let object = object();
    // Unchanged bytes keep their time, so that the agent is not built again.
    if fs::read(&object).ok().as_deref() != Some(fresh.as_slice()) {
        fs::create_dir_all(object.parent().unwrap_or(&target_dir))?;
        fs::write(&object, fresh).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(())
}

/// Builds them if this machine can, or says why not.
pub(crate) fn build_if_possible() {
    if let Err(error) = build() {
        run::say(&format!("no kernel programs, the agent will only scrape: {error:#}"));
    }
}
