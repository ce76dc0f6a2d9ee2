//! Drives the picker's own code with simulated engines and traffic in virtual time, and compares it with other policies.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the tables are the result")]

mod summary;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use forebay_routing_sim::{
    EngineSpec, Scenario, Summary, Time, Trace,
    report::{PolicyRow, table},
    wire,
};

use forebay_routing_bench::{
    picker::PickerRouter,
    policies::{self, Policy},
    simulate, traces,
};

use crate::summary::Comparison;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compares routing policies in virtual time: simulated engines and traffic, the picker's own code
#[derive(Debug, Parser)]
struct Flags {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    cells: Cells,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read events as JSON lines from standard input, and write decisions to standard output: for other simulators. The
    /// documentation of the package forebay-routing-sim, module wire, describes the lines
    Serve {
        /// The policy that decides
        #[arg(long, value_name = "NAME", default_value = policies::FOREBAY)]
        policy: String,
    },
}

/// Which cells are run, and how.
#[derive(Debug, clap::Args)]
struct Cells {
    /// Folder with mooncake_conversation.jsonl and azure_2023_conv.csv. Without it, these traces are skipped
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Traces to run
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum)]
    trace: Vec<traces::Name>,
    /// Scenarios to run, by name. Without it, all
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    scenario: Vec<String>,
    /// Policies to run, by name. Without it, all
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    policy: Vec<String>,
    /// Number of pods
    #[arg(long, default_value_t = 8)]
    pods: usize,
    /// Requests per run
    #[arg(long, default_value_t = 3000)]
    requests: usize,
    /// Load as a multiple of each trace's own for 8 pods
    #[arg(long, value_name = "FACTOR,…", value_delimiter = ',', default_values_t = [1.0])]
    load: Vec<f64>,
    /// Runs per cell, each with its own seed
    #[arg(long, default_value_t = 3)]
    seeds: u64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let result = match &flags.command {
        Some(Command::Serve { policy }) => serve(policy),
        None => compare(&flags.cells),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(policy: &str) -> Result<(), String> {
    let policies = policies(&EngineSpec::qwen3_32b_2xh100())?;
    let Some(policy) = policies.iter().find(|it| it.name == policy) else {
        let names: Vec<&str> = policies.iter().map(|it| it.name).collect();
        return check_names("policy", &[policy.to_owned()], &names);
    };
    let mut router = PickerRouter::new(policy.pipeline.clone());
    wire::serve(&mut router, io::stdin().lock(), io::stdout().lock()).map_err(|error| error.to_string())
}

fn compare(flags: &Cells) -> Result<(), String> {
    let engine = EngineSpec::qwen3_32b_2xh100();
    let policies = policies(&engine)?;
    check_names("scenario", &flags.scenario, &Scenario::ALL.map(Scenario::name))?;
    check_names("policy", &flags.policy, &policies.iter().map(|it| it.name).collect::<Vec<_>>())?;
    let mut comparisons = Vec::new();
    let is_wanted = |wanted: &[String], name: &str| wanted.is_empty() || wanted.iter().any(|it| it == name);
    let names = if flags.trace.is_empty() { traces::Name::value_variants() } else { &flags.trace };
    for name in names {
        for load in &flags.load {
            let load = load * flags.pods as f64 / 8.0;
            let seeded: Result<Vec<Trace>, String> = (0..flags.seeds)
                .map(|seed| name.load(flags.traces.as_deref(), flags.requests, load, seed))
                .collect();
            let traces = match seeded {
                Ok(traces) => traces,
                Err(reason) => {
                    println!("{name:?}: skipped: {reason}\n");
                    continue;
                }
            };
            for scenario in Scenario::ALL.into_iter().filter(|it| is_wanted(&flags.scenario, it.name())) {
                let title =
                    format!("{} · {} · {} pods · load {load}", traces[0].name, scenario.name(), flags.pods);
                eprintln!("{title} …");
                let rows = policies
                    .iter()
                    .filter(|policy| is_wanted(&flags.policy, policy.name))
                    .map(|policy| row(policy, scenario, &engine, flags.pods, &traces))
                    .collect::<Result<Vec<_>, _>>()?;
                println!("{}", table(&title, policies::FOREBAY, &rows));
                comparisons.extend(Comparison::of(title, &rows));
            }
        }
    }
    print!("{}", summary::table(&comparisons));
    Ok(())
}

fn policies(engine: &EngineSpec) -> Result<Vec<Policy>, String> {
    policies::all(engine).map_err(|error| error.to_string())
}

/// Fails if one of the names does not exist.
fn check_names(kind: &str, wanted: &[String], names: &[&str]) -> Result<(), String> {
    match wanted.iter().find(|it| !names.contains(&it.as_str())) {
        Some(unknown) => Err(format!("there is no {kind} {unknown:?}; use one of {}", names.join(", "))),
        None => Ok(()),
    }
}

/// Runs one policy with each seed.
fn row(
    policy: &Policy,
    scenario: Scenario,
    engine: &EngineSpec,
    pods: usize,
    traces: &[Trace],
) -> Result<PolicyRow, String> {
    let mut reports = Vec::new();
    for (seed, trace) in (0..).zip(traces) {
        let middle = Time::from_ns(trace.last_start().as_ns() / 2);
        let conditions = scenario.conditions(engine, pods, middle);
        reports.push(simulate(policy, trace, &conditions, seed)?);
    }
    Ok(PolicyRow { policy: policy.name.to_owned(), summary: Summary::of(&reports) })
}
