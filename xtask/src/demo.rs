//! `cargo xtask demo`: builds the programs and runs `forebay-demo`.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{build, ebpf, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Model servers to start.
    #[arg(long, value_enum, default_value_t = Engine::Sim)]
    engine: Engine,
    /// Keep everything running after the checks, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Number of requests of the mixed load.
    #[arg(long, default_value_t = 600)]
    requests: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    /// The vLLM simulator.
    Sim,
    /// vLLM on the CPU with a tiny model. The first run installs 6 GB.
    Vllm,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run_if_possible();
    ebpf::build_if_possible();
    run::step("building Forebay (a few minutes the first time)", &mut build::programs())?;
    let mut demo = std::process::Command::new(run::root().join("target/debug/forebay-demo"));
    demo.args(["--requests", &options.requests.to_string()]);
    if let Engine::Vllm = options.engine {
        demo.args(["--engine", "vllm"]);
    }
    if options.keep {
        demo.arg("--keep");
    }
    // Replaces this process: Ctrl-C and the exit code are those of the demo.
    let error = demo.exec();
    Err(error).context("cannot start the demo")
}
