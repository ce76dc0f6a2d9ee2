//! The programs as they are shipped. The gateway and the picker are built by a profile of themselves under the bench's
//! load: their time goes into code whose branches and inlining no heuristic gets right.

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
    /// Build by this profile of an earlier run, of the same compiler, and record none.
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    profdata: Option<PathBuf>,
    /// Without a profile: one build instead of three, and a gateway that takes about a quarter more CPU.
    #[arg(long)]
    plain: bool,
}

/// Built by the profile of themselves.
const PROFILED: [&str; 2] = ["forebay-gateway", "forebay-epp"];
/// Puts load on them.
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

/// Builds these programs, and says where they lie.
pub(crate) fn build(options: &Options, programs: &[&str]) -> Result<PathBuf> {
    let flags = if options.plain {
        None
    } else {
        let rustc = Rustc::find()?;
        let profile = match &options.profdata {
            // Cargo runs elsewhere.
            Some(profile) => fs::canonicalize(profile)
                .with_context(|| format!("--profdata {} cannot be read", profile.display()))?,
            None => profile::record(&rustc)?,
        };
        run::say(&format!("by the profile {}", profile.display()));
        Some((rustc, format!("-Cprofile-use={}", profile.display())))
    };
    // One folder less to build dependencies in.
    let is_profiled = |program: &&str| flags.is_some() && (PROFILED.contains(program) || *program == BENCH);
    let (profiled, plain): (Vec<&str>, Vec<&str>) = programs.iter().partition(|program| is_profiled(program));
    let shipped = target("shipped");
    fs::create_dir_all(&shipped)?;
    if !plain.is_empty() {
        let mut build = cargo_build(&target("shipped-plain"), &[]);
        if flags.is_some() {
            // None of these is on a request's way: not worth the ten minutes that linking them like those takes.
            build.env("CARGO_PROFILE_RELEASE_LTO", "thin");
        }
        run::step("building for release", build.args(bins(&plain)))?;
        take(&plain, &target("shipped-plain").join("release"), &shipped)?;
    }
    if let (Some((rustc, flag)), false) = (flags, profiled.is_empty()) {
        let mut build = cargo_build(&target("shipped-profiled"), &[flag]);
        build.args(bins(&profiled)).args(["--target", &rustc.host]);
        run::step("building for release by the profile", &mut build)?;
        take(&profiled, &target("shipped-profiled").join(&rustc.host).join("release"), &shipped)?;
    }
    Ok(shipped)
}

/// In a folder of its own: other flags, and cargo would build all else again. Of the whole workspace: with fewer
/// packages it would choose other features for what they share.
fn cargo_build(folder: &Path, flags: &[String]) -> std::process::Command {
    let mut build = run::cargo();
    build.args(["build", "--release", "--workspace", "--target-dir"]).arg(folder);
    let flags = [&run::without_paths_of_this_machine()[..], flags].concat();
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    build
}

fn bins<'a>(programs: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    programs.iter().flat_map(|program| ["--bin", program])
}

fn take(programs: &[&str], from: &Path, to: &Path) -> Result<()> {
    for program in programs {
        let (from, to) = (from.join(program), to.join(program));
        // By a rename: the old one may be running.
        let new = to.with_extension("new");
        fs::copy(&from, &new).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::rename(new, to)?;
    }
    Ok(())
}

fn target(folder: &str) -> PathBuf {
    run::root().join("target").join(folder)
}
