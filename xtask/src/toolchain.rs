//! Compiler and linker for the eBPF programs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::run;

pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";
/// rustc of Debian. The package libstd-rust-web-dev-bpf adds `core` for the BPF target.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A Rust compiler for the BPF target.
pub(crate) enum Compiler {
    /// Nightly of rustup with rust-src; builds `core`.
    Nightly,
    /// A compiler with a prebuilt `core`.
    Prebuilt(PathBuf),
}

/// The first available compiler. Both produce the same object file.
pub(crate) fn compiler() -> Option<Compiler> {
    let nightly = run::output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    if nightly.is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir()) {
        return Some(Compiler::Nightly);
    }
    let sysroot = run::output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))?;
    let core = Path::new(&sysroot).join("lib/rustlib").join(BPF_TARGET).join("lib");
    core.is_dir().then(|| Compiler::Prebuilt(PathBuf::from(DEBIAN_RUSTC)))
}

/// bpf-linker from the PATH, otherwise from the bin folder of cargo.
pub(crate) fn bpf_linker() -> PathBuf {
    let name = PathBuf::from("bpf-linker");
    if run::succeeds(Command::new(&name).arg("--version")) {
        return name;
    }
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    home.map_or(name.clone(), |home| home.join("bin").join(name))
}
