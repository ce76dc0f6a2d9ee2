//! `forebay-epp-bench`: the endpoint picker's hot path. Time and allocations of a pick beside a plain implementation, memory of
//! the prefix index, picks per core-second of forebay-epp over ext_proc, and one picker for many pools.

mod ext_proc;
mod fixture;
mod memory;
mod naive;
mod pick;
mod pools;

use std::{
    alloc::System,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use forebay_bench::report;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Measures the endpoint picker.
#[derive(Debug, Parser)]
struct Options {
    /// Run only these parts [default: all].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Number of runs of each measurement. The result is their median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Duration of one run over ext_proc, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Number of unique prompts for the memory of the index.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    prompts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Time and allocations of a pick with a prompt of 8,192 tokens, at 100, 1,000 and 10,000 endpoints.
    Pick,
    /// Memory of the prefix index under unique prompts.
    Memory,
    /// Picks per core-second of forebay-epp over ext_proc, by size of the body.
    ExtProc,
    /// One picker for 500 pools with 100 agents: telemetry streams, memory, time until a change is in force.
    Pools,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay-epp-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let is_selected = |part| options.parts.is_empty() || options.parts.contains(&part);
    if is_selected(Part::Pick) {
        report::print(&pick::measure(options.runs));
    }
    if is_selected(Part::Memory) {
        report::print(&memory::measure(options.prompts)?);
    }
    if is_selected(Part::ExtProc) {
        report::print(&ext_proc::measure(options.runs, Duration::from_secs(options.seconds))?);
    }
    if is_selected(Part::Pools) {
        report::print(&pools::measure(options.runs)?);
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
