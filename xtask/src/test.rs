//! Every test there is.

use anyhow::Result;

use crate::{demo, ebpf, lint, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave out formatting, clippy and dependency policy.
    #[arg(long)]
    no_lint: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run_if_possible();
    ebpf::build_if_possible();
    if !options.no_lint {
        lint::run()?;
    }
    run::step("building the programs that tests start", &mut demo::build())?;
    // Shown, because a test says on standard output what it had to skip.
    run::step(
        "the tests",
        run::cargo().args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]),
    )
}
