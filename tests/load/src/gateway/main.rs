//! `forebay-gateway-bench`: the gateway beside nginx and Envoy, in the same run.
//!
//! Per core-second of a proxy's own CPU time, so that what the client and the upstream
//! take of the same two cores does not matter; medians over runs whose order rotates.

mod cell;
mod events;
mod fixed_rate;
mod load;
mod many;
mod peers;
mod report;
mod streams;
mod throughput;
mod tls;
mod train;
mod upstream;
mod usage;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use peers::{Instrumented, Peers};
use tls::Tls;

/// The model that is asked for.
const MODEL: &str = "Qwen/Qwen3-0.6B";

/// Measures the gateway against nginx and Envoy.
#[derive(Debug, Parser)]
struct Options {
    /// Only these parts.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Runs of each measurement; their median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Of one run, in seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Throughput with bodies of only these sizes.
    #[arg(long, value_name = "SIZE", value_parser = throughput::SIZES.map(|(name, _)| name))]
    body: Vec<String>,
    /// Threads that serve clients, of each proxy. All the same, or those with more of them look worse: on a core of
    /// its own, a thread finds less work at a time and looks for it more often.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Throughput over TLS between the client and the proxies; all else is measured without.
    #[arg(long)]
    tls: bool,
    /// nginx's program.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// Envoy's program; it is left out without.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Folder with the forebay-gateway and forebay-epp of an older build, measured in the same run.
    #[arg(long, value_name = "FOLDER")]
    baseline: Option<PathBuf>,
    /// Measure nothing: put the instrumented programs of this folder under load, so that they write profiles.
    #[arg(long, value_name = "FOLDER", conflicts_with = "parts", requires = "profiles")]
    train: Option<PathBuf>,
    /// Where they write them.
    #[arg(long, value_name = "FOLDER", requires = "train")]
    profiles: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests per core-second over body sizes, and peak memory.
    Throughput,
    /// Added latency at 1,000 requests per second.
    Latency,
    /// 1,000 streams at 50 tokens per second: gaps between tokens, memory.
    Streams,
    /// 10,000 streams at one time.
    Many,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay-gateway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if let (Some(programs), Some(profiles)) = (options.train.clone(), options.profiles.clone()) {
        return train::run(&Instrumented { programs, profiles });
    }
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    let duration = Duration::from_secs(options.seconds);
    if wanted(Part::Throughput) {
        let tls = options.tls.then(Tls::new).transpose()?;
        let peers = Peers::all(
            &options.nginx,
            options.envoy.as_deref(),
            options.baseline.as_deref(),
            options.workers,
            tls.as_ref(),
        )?;
        report::print(&throughput::measure(&peers, options.runs, duration, &options.body)?);
    }
    if wanted(Part::Latency) {
        let peers = Peers::all(
            &options.nginx,
            options.envoy.as_deref(),
            options.baseline.as_deref(),
            options.workers,
            None,
        )?;
        report::print(&fixed_rate::measure(&peers, options.runs, duration)?);
    }
    if wanted(Part::Streams) {
        report::print(&streams::measure(duration)?);
    }
    if wanted(Part::Many) {
        report::print(&many::measure()?);
    }
    Ok(())
}
