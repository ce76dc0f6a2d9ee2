//! Installs what a build needs and is missing. Says what it does, never asks, and
//! does nothing the second time.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{ebpf, run};

/// The linker whose LLVM Debian has.
const BPF_LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What compiling crates with C parts (mimalloc) needs.
const C_COMPILER: &[&str] = &["binutils", "gcc", "libc6-dev", "make"];
const LINKER_LIBRARIES: &[&str] = &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "g++"];
/// Debian's own Rust with `core` for the BPF target.
const BPF_COMPILER: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
/// `mount` and `setpriv`, for the demo and the tests.
const TOOLS: &[&str] = &["mount", "util-linux"];

/// What a cluster runs beside its own programs.
const CLUSTER: &[&str] =
    &["runc", "containernetworking-plugins", "nftables", "iptables", "iproute2", "conntrack", "procps"];

/// What a cluster needs on the machine.
pub(crate) fn for_clusters() -> Result<()> {
    install(CLUSTER)
}

/// What the gateway is measured against, as far as Debian has it.
pub(crate) fn for_benches() -> Result<()> {
    install(&["nginx-light"])
}

/// What merges profiles, for a compiler that has no rustup.
pub(crate) fn for_profiles(llvm: &str) -> Result<()> {
    install(&[llvm])
}

pub(crate) fn run() -> Result<()> {
    install(C_COMPILER)?;
    install(TOOLS)?;
    if ebpf::compiler().is_none() {
        install(BPF_COMPILER)?;
    }
    if !has_bpf_linker() {
        install(LINKER_LIBRARIES)?;
        install_bpf_linker()?;
    }
    Ok(())
}

/// Like [`run`], but a machine that cannot build the kernel programs goes on
/// without them; the programs themselves say so when they run.
pub(crate) fn run_if_possible() {
    if let Err(error) = run() {
        run::say(&format!("going on without what is missing: {error:#}"));
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !run::succeeds(Command::new("apt-get").arg("--version")) {
        bail!("missing: {list}. This machine has no apt-get; install their equivalents and run again");
    }
    if !run::is_root() {
        bail!("missing: {list}. Install them with: sudo apt-get install --no-install-recommends {list}");
    }
    let apt_install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-y", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let known = run::succeeds(Command::new("apt-cache").args(["show", "--no-all-versions"]).args(&missing));
    if known && run::step(&format!("installing {list}"), &mut apt_install()).is_ok() {
        return Ok(());
    }
    // No lists yet, or lists so old that what they name is gone.
    run::step("reading the package lists", Command::new("apt-get").args(["-qq", "update"]))?;
    run::step(&format!("installing {list}"), &mut apt_install())
}

fn is_installed(package: &str) -> bool {
    run::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package])).as_deref()
        == Some("installed")
}

fn has_bpf_linker() -> bool {
    run::succeeds(Command::new(bpf_linker()).arg("--version"))
}

/// On the PATH, or where cargo installs.
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

fn install_bpf_linker() -> Result<()> {
    if !fs::exists(LLVM_PREFIX)? {
        bail!("bpf-linker needs LLVM 22 and {LLVM_PREFIX} is not there");
    }
    run::step(
        &format!("building bpf-linker {BPF_LINKER_VERSION} (about a minute)"),
        run::cargo()
            .args(["install", "--quiet", "--locked", "bpf-linker", "--version", BPF_LINKER_VERSION])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", LLVM_PREFIX),
    )
}
