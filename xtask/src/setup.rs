//! Installs missing build requirements. Prints what it does, never asks, and is idempotent.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::{
    run,
    toolchain::{bpf_linker, compiler},
};

/// Version that builds with Debian's LLVM.
const BPF_LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Required by crates with C code (mimalloc).
const C_COMPILER: &[&str] = &["binutils", "gcc", "libc6-dev", "make"];
const LINKER_LIBRARIES: &[&str] = &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "g++"];
/// Debian's Rust, with `core` for the BPF target.
const BPF_COMPILER: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
/// `mount` and `setpriv`, used by the demo and the tests.
const TOOLS: &[&str] = &["mount", "util-linux"];

/// Terminals of given sizes, for the tests of `forebay top`; a browser, for those of `forebay dashboard`; a database for those
/// of usage records; Prometheus with promtool, for dashboards and alert rules; Redis for quotas that gateways share.
const TEST_TOOLS: &[&str] = &["chromium", "tmux", "postgresql", "prometheus", "redis-server"];

/// Programs of the cluster that are installed as packages. The others are built from Go modules.
const CLUSTER: &[&str] =
    &["runc", "containernetworking-plugins", "nftables", "iptables", "iproute2", "conntrack", "procps"];

/// Installs the requirements of the cluster.
pub(crate) fn for_clusters() -> Result<()> {
    install(CLUSTER)
}

/// Installs nginx, a baseline of the gateway bench.
pub(crate) fn for_benches() -> Result<()> {
    install(&["nginx-light"])
}

/// Installs a C++ compiler, which builds libFuzzer.
pub(crate) fn for_fuzzing() -> Result<()> {
    if run::succeeds(Command::new("c++").arg("--version")) { Ok(()) } else { install(&["g++"]) }
}

/// Installs what building the Dockerfile in a test needs.
pub(crate) fn for_dockerfile() -> Result<()> {
    install(&["buildah", "debootstrap"])?;
    if !run::is_root() {
        bail!("needs root");
    }
    Ok(())
}

/// Installs llvm-profdata. Used when rustup is not available.
pub(crate) fn for_profiles(llvm: &str) -> Result<()> {
    install(&[llvm])
}

pub(crate) fn run() -> Result<()> {
    install(C_COMPILER)?;
    install(TOOLS)?;
    if compiler().is_none() {
        install(BPF_COMPILER)?;
    }
    if !has_bpf_linker() {
        install(LINKER_LIBRARIES)?;
        install_bpf_linker()?;
    }
    Ok(())
}

/// Like [`run`], but only reports errors: only the eBPF programs need the missing requirements.
pub(crate) fn run_if_possible() {
    if let Err(error) = run() {
        run::say(&format!("continuing without missing requirements: {error:#}"));
    }
}

/// Installs what only tests need. Tests that miss it say that they are skipped.
pub(crate) fn for_tests_if_possible() {
    if let Err(error) = install(TEST_TOOLS) {
        run::say(&format!("continuing without tools of tests: {error:#}"));
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !run::succeeds(Command::new("apt-get").arg("--version")) {
        bail!("missing packages: {list}. apt-get not found; install the equivalent packages and run again");
    }
    if !run::is_root() {
        bail!(
            "missing packages: {list}. Install them with: sudo apt-get install --no-install-recommends {list}"
        );
    }
    let apt_install = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-y", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Services of packages are not started (`invoke-rc.d` reads it): tests start their own.
            .env("RUNLEVEL", "1");
        apt
    };
    let is_available =
        run::succeeds(Command::new("apt-cache").args(["show", "--no-all-versions"]).args(&missing));
    if is_available && run::step(&format!("installing {list}"), &mut apt_install()).is_ok() {
        return Ok(());
    }
    // The package lists are missing or outdated.
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

fn install_bpf_linker() -> Result<()> {
    if !fs::exists(LLVM_PREFIX)? {
        bail!("bpf-linker needs LLVM 22, but {LLVM_PREFIX} does not exist");
    }
    run::step(
        &format!("building bpf-linker {BPF_LINKER_VERSION} (about a minute)"),
        run::cargo()
            .args(["install", "--quiet", "--locked", "bpf-linker", "--version", BPF_LINKER_VERSION])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", LLVM_PREFIX),
    )
}
