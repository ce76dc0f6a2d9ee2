//! Every test there is.

use std::process::Command;

use anyhow::Result;

use crate::{cluster, ebpf, image, lint, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave out formatting, clippy and dependency policy.
    #[arg(long)]
    no_lint: bool,
    /// Only the tests in a real cluster.
    #[arg(long)]
    cluster: bool,
    /// Leave the cluster running afterwards.
    #[arg(long, requires = "cluster")]
    keep: bool,
    /// Of the cluster's tests, only those with this in their name.
    #[arg(requires = "cluster")]
    filter: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run_if_possible();
    ebpf::build_if_possible();
    if options.cluster {
        return in_cluster(cluster::why_not(), options);
    }
    if !options.no_lint {
        lint::run(&lint::Options::default())?;
    }
    run::step("building the tests and the programs that they start", &mut build())?;
    // Before the tests: some of them start an API server, too.
    let why_not = cluster::why_not();
    // Shown, because a test says on standard output what it had to skip.
    run::step(
        "the tests",
        run::cargo().args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]),
    )?;
    image::dockerfile::test()?;
    in_cluster(why_not, options)
}

/// All tests, and every program that they start. In one build: tests ask for other features of what programs share
/// with them, and apart all of it would be built twice.
pub(crate) fn build() -> Command {
    let mut cargo = run::cargo();
    cargo.args(["build", "--workspace", "--lib", "--bins", "--tests"]);
    cargo
}

fn in_cluster(why_not: Option<String>, options: &Options) -> Result<()> {
    match why_not {
        Some(reason) => {
            run::say(&format!("skipped: the tests in a real cluster: {reason}"));
            Ok(())
        }
        None => cluster::run_tests(options.keep, options.filter.as_deref()),
    }
}
