//! `forebay-gateway-bench`: compares the gateway with nginx and Envoy in the same run.
//!
//! Throughput is measured per second of CPU time of the proxy, so that client and upstream may share its cores. Results
//! are medians over runs; the order of the proxies rotates.

mod client;
mod concurrent;
mod door;
mod events;
mod fixed_rate;
mod manifests;
mod proxies;
mod request;
mod scale;
mod streams;
mod throughput;
mod tls;
mod train;
mod upstream;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use proxies::{Instrumented, Proxies};
use tls::Tls;

/// Model name in all requests.
const MODEL: &str = "Qwen/Qwen3-0.6B";

/// Measures the gateway against nginx and Envoy.
#[derive(Debug, Parser)]
struct Options {
    /// Run only these parts [default: all].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Number of runs of each measurement. The result is their median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Duration of one run, in seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Measure throughput only with bodies of these sizes.
    #[arg(long, value_name = "SIZE", value_parser = throughput::SIZES.map(|(name, _)| name))]
    body: Vec<String>,
    /// Worker threads of each proxy. The number must be equal for a fair comparison: with more threads, each wakes up
    /// more often for less work.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Measure throughput with TLS between client and proxies. The other parts never use TLS.
    #[arg(long)]
    tls: bool,
    /// Path of the nginx program.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// Path of the Envoy program. Without it, Envoy is skipped.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Folder with forebay-gateway and forebay-epp of an older build, to measure in the same run.
    #[arg(long, value_name = "FOLDER")]
    baseline: Option<PathBuf>,
    /// Run the load against the instrumented programs in this folder to record profiles. Nothing is measured.
    #[arg(long, value_name = "FOLDER", conflicts_with = "parts", requires = "profiles")]
    train: Option<PathBuf>,
    /// Folder for the recorded profiles.
    #[arg(long, value_name = "FOLDER", requires = "train")]
    profiles: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests per core-second by body size, and peak memory.
    Throughput,
    /// Added latency at 1,000 requests per second.
    Latency,
    /// 1,000 streams at 50 tokens per second: time between tokens, memory.
    Streams,
    /// 10,000 concurrent streams: memory.
    Many,
    /// Requests per core-second with API keys, a rule and three quotas, and with quotas in a store.
    Door,
    /// 100,000 API keys and 10,000 quotas: load time, memory, and time until a change is in force.
    Scale,
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
    let is_selected = |part| options.parts.is_empty() || options.parts.contains(&part);
    let duration = Duration::from_secs(options.seconds);
    if is_selected(Part::Throughput) {
        let tls = options.tls.then(Tls::new).transpose()?;
        let proxies = Proxies::all(
            &options.nginx,
            options.envoy.as_deref(),
            options.baseline.as_deref(),
            options.workers,
            tls.as_ref(),
        )?;
        forebay_bench::report::print(&throughput::measure(&proxies, options.runs, duration, &options.body)?);
    }
    if is_selected(Part::Latency) {
        let proxies = Proxies::all(
            &options.nginx,
            options.envoy.as_deref(),
            options.baseline.as_deref(),
            options.workers,
            None,
        )?;
        forebay_bench::report::print(&fixed_rate::measure(&proxies, options.runs, duration)?);
    }
    if is_selected(Part::Streams) {
        forebay_bench::report::print(&streams::measure(duration)?);
    }
    if is_selected(Part::Door) {
        forebay_bench::report::print(&door::measure(options.workers, options.runs, duration)?);
    }
    if is_selected(Part::Scale) {
        forebay_bench::report::print(&scale::measure(options.runs)?);
    }
    if is_selected(Part::Many) {
        forebay_bench::report::print(&concurrent::measure()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_options_are_consistent() {
        <super::Options as clap::CommandFactory>::command().debug_assert();
    }
}
