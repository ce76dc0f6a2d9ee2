//! `forebay-demo`: see `cargo xtask demo`.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use forebay_e2e::demo::{self, DemoEngine, DemoOptions};
use tokio::signal::unix::{SignalKind, signal};

/// Starts everything on this machine, sends traffic, compares kernel and engines.
#[derive(Debug, Parser)]
struct Args {
    #[arg(long, value_enum, default_value_t = Engine::Sim)]
    engine: Engine,
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(30..=100_000))]
    requests: u32,
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    Sim,
    Vllm,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = DemoOptions {
        engine: match args.engine {
            Engine::Sim => DemoEngine::Sim,
            Engine::Vllm => DemoEngine::Vllm,
        },
        requests: args.requests,
        keep: args.keep,
    };
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    // Whoever ends it drops the stage, and with it every process, cgroup and pin.
    let result = tokio::select! {
        result = demo::run(&options) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "forebay-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
