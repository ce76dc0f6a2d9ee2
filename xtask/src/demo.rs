//! The main job, on this machine.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{ebpf, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What stands in for the GPUs' model servers.
    #[arg(long, value_enum, default_value_t = Engine::Sim)]
    engine: Engine,
    /// Leave everything running after the checks, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Requests of the mixed load.
    #[arg(long, default_value_t = 600)]
    requests: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    /// A simulator that speaks vLLM's HTTP.
    Sim,
    /// Real vLLM on the CPU with a tiny model (installs 6 GB the first time).
    Vllm,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run_if_possible();
    ebpf::build_if_possible();
    run::step("building Forebay (a few minutes the first time)", &mut build())?;
    let mut demo = std::process::Command::new(run::root().join("target/debug/forebay-demo"));
    demo.args(["--requests", &options.requests.to_string()]);
    if let Engine::Vllm = options.engine {
        demo.args(["--engine", "vllm"]);
    }
    if options.keep {
        demo.arg("--keep");
    }
    // In place of this process, so that Ctrl-C and the exit code are the demo's own.
    let error = demo.exec();
    Err(error).context("cannot start the demo")
}

/// Every program that the demo and the end-to-end tests start. Always the whole
/// workspace: with fewer packages, cargo would choose other features for what they
/// share, and build it all again.
pub(crate) fn build() -> std::process::Command {
    let mut cargo = run::cargo();
    cargo.args(["build", "--workspace", "--bins", "--lib"]);
    cargo
}
