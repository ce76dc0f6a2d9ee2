//! `forebay-agent-bench`: what the agent costs a node, in the kernel and as a process.
//!
//! Needs root and BPF.

mod idle;
mod loaded;
mod packets;
mod server;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use forebay_bench::report;
use forebay_e2e::harness::{Engine, Harness, HarnessOptions, PoolOptions, QWEN, SimOptions};

/// Prints the cost of the agent: its BPF programs for each packet, the throughput of a pod's server with and without them,
/// and the CPU time and memory of its process.
#[derive(Debug, Parser)]
struct Options {
    /// Parts to run [default: all].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Runs of each measurement. The report has their medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds of one run.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Pods of the idle node.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=150))]
    idle_pods: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Time of the BPF programs for one packet.
    Packets,
    /// Requests of a pod's server with and without programs.
    Server,
    /// The agent's process with many idle pods.
    Idle,
    /// The agent's process under load, with 1 and 8 subscribers.
    Load,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay-agent-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let is_selected = |part| options.parts.is_empty() || options.parts.contains(&part);
    let (runs, duration) = (options.runs, Duration::from_secs(options.seconds));
    if is_selected(Part::Packets) {
        report::print(&packets::measure(runs, duration).await?);
    }
    if is_selected(Part::Server) {
        report::print(&server::measure(runs, duration).await?);
    }
    if is_selected(Part::Idle) {
        report::print(&idle::measure(options.idle_pods, runs, duration).await?);
    }
    if is_selected(Part::Load) {
        report::print(&loaded::measure(runs, duration).await?);
    }
    Ok(())
}

/// A node with these pods. Fails if the kernel part does not work where it is wanted.
fn node(pods: u32, token_interval: Duration, kernel: bool) -> Result<Harness> {
    let engine = Engine::Sim(SimOptions {
        token_interval_us: token_interval.as_micros().try_into()?,
        ..SimOptions::default()
    });
    let harness = tokio::task::block_in_place(|| {
        Harness::start(HarnessOptions {
            engine,
            pools: vec![PoolOptions { name: "vllm-qwen3-06b", model: QWEN, pods }],
            kernel,
            start_timeout: Duration::from_secs(120),
            ..HarnessOptions::default()
        })
    })?;
    ensure!(
        !kernel || harness.unavailable.is_empty(),
        "cannot measure on this machine: {}",
        harness.unavailable.join("; ")
    );
    Ok(harness)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_options_are_consistent() {
        <super::Options as clap::CommandFactory>::command().debug_assert();
    }
}
