//! Measurements, each against a named baseline of the same run.

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

use crate::{ebpf, run};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// Age of a load change when the picker uses it: kernel event to pick.
    Freshness,
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
            let mut build = run::cargo();
            build.args(["build", "--release", "--bins"]);
            for package in ["forebay-agent", "forebay-epp", "forebay-gateway", "forebay-sim", "forebay-e2e"] {
                build.args(["--package", package]);
            }
            run::step("building for release", &mut build)?;
            let bench = run::root().join("target/release/forebay-freshness");
            run::step("freshness", &mut std::process::Command::new(bench))
        }
        Which::Micro { path } => {
            let (package, bench) = match path {
                HotPath::Extract => ("forebay-gateway", "extract"),
                HotPath::Pick => ("forebay-epp", "pick"),
            };
            run::step(bench, run::cargo().args(["bench", "--package", package, "--bench", bench]))
        }
    }
}
