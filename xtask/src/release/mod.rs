//! `cargo xtask release`: release builds. Gateway and picker are built with profile-guided optimisation (PGO); the
//! profile is recorded under the load of the gateway bench.

mod profile;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use self::profile::Rustc;
use crate::{ebpf, run, setup};

#[derive(Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// Use this profile of an earlier run (same compiler version) instead of recording one.
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    profdata: Option<PathBuf>,
    /// Build without PGO: one build instead of three. The gateway then uses about 25 % more CPU.
    #[arg(long)]
    plain: bool,
}

/// Programs that are built with PGO.
const PROFILED: [&str; 2] = ["forebay-gateway", "forebay-epp"];
/// The load program that records the profile.
pub(crate) const BENCH: &str = "forebay-gateway-bench";
const SHIPPED: [&str; 4] = ["forebay-agent", "forebay", "forebay-epp", "forebay-gateway"];

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run_if_possible();
    ebpf::build_if_possible();
    let folder = build(options, &SHIPPED)?;
    for program in SHIPPED {
        run::say(&format!("{}", folder.join(program).display()));
    }
    Ok(())
}

/// Builds these programs. Returns their folder.
pub(crate) fn build(options: &Options, programs: &[&str]) -> Result<PathBuf> {
    let flags = if options.plain {
        None
    } else {
        let rustc = Rustc::find()?;
        let profile = match &options.profdata {
            // Absolute: cargo runs in another folder.
            Some(profile) => fs::canonicalize(profile)
                .with_context(|| format!("cannot read --profdata {}", profile.display()))?,
            None => profile::record(&rustc)?,
        };
        run::say(&format!("using the profile {}", profile.display()));
        Some((rustc, format!("-Cprofile-use={}", profile.display())))
    };
    // The load program shares the target folder of the PGO programs: dependencies are built once less.
    let is_profiled = |program: &&str| flags.is_some() && (PROFILED.contains(program) || *program == BENCH);
    let (profiled, plain): (Vec<&str>, Vec<&str>) = programs.iter().partition(|program| is_profiled(program));
    let shipped = target("shipped");
    fs::create_dir_all(&shipped)?;
    if !plain.is_empty() {
        let mut build = cargo_build(&target("shipped-plain"), &[]);
        if flags.is_some() {
            // Not on the request path: fat LTO would take ten minutes more.
            build.env("CARGO_PROFILE_RELEASE_LTO", "thin");
        }
        run::step("building for release", build.args(bins(&plain)))?;
        copy_programs(&plain, &target("shipped-plain").join("release"), &shipped)?;
    }
    if let (Some((rustc, flag)), false) = (flags, profiled.is_empty()) {
        let mut build = cargo_build(&target("shipped-profiled"), &[flag]);
        build.args(bins(&profiled)).args(["--target", &rustc.host]);
        run::step("building for release with the profile", &mut build)?;
        copy_programs(&profiled, &target("shipped-profiled").join(&rustc.host).join("release"), &shipped)?;
    }
    Ok(shipped)
}

/// A release build in its own target folder, because other flags would rebuild everything. It covers the whole
/// workspace: with fewer packages cargo would choose other features for shared dependencies.
fn cargo_build(folder: &Path, flags: &[String]) -> std::process::Command {
    let mut build = run::cargo();
    build.args(["build", "--release", "--workspace", "--target-dir"]).arg(folder);
    let flags = [&run::remap_paths()[..], flags].concat();
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    build
}

fn bins<'a>(programs: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    programs.iter().flat_map(|program| ["--bin", program])
}

fn copy_programs(programs: &[&str], from: &Path, to: &Path) -> Result<()> {
    for program in programs {
        let (from, to) = (from.join(program), to.join(program));
        // Rename, because the old program may be running.
        let new = to.with_extension("new");
        fs::copy(&from, &new).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::rename(new, to)?;
    }
    Ok(())
}

fn target(folder: &str) -> PathBuf {
    run::root().join("target").join(folder)
}
