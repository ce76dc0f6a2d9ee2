//! `cargo xtask fuzz`: builds the fuzz targets with libFuzzer and runs them.

mod build;
mod libfuzzer;
mod targets;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Result, bail};

use self::{
    libfuzzer::Limit,
    targets::{Target, find},
};
use crate::{run, setup};

/// Time for each target in `cargo xtask test`.
const TEST_SECONDS: u64 = 15;
/// Time for each target without `--runs` and `--seconds`.
const DEFAULT_SECONDS: u64 = 60;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Targets to run; without names, all of them. `list` prints the targets instead.
    targets: Vec<String>,
    /// Run each target this many times.
    #[arg(long, conflicts_with = "seconds")]
    runs: Option<u64>,
    /// Run each target for this long [default: 60].
    #[arg(long)]
    seconds: Option<u64>,
    /// Number of targets that run at the same time [default: number of CPUs].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Run one target on one input, for example to reproduce a fault.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["runs", "seconds", "jobs"])]
    input: Option<PathBuf>,
    /// Add found inputs to the committed corpora, as few as possible. Nothing is fuzzed.
    #[arg(long, conflicts_with_all = ["runs", "seconds", "jobs", "input"])]
    merge: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let all = find(&run::root())?;
    if options.targets == ["list"] {
        list(&all);
        return Ok(());
    }
    let chosen = choose(all, &options.targets)?;
    setup::for_fuzzing()?;
    let programs = build::build()?;
    if let Some(input) = &options.input {
        let [target] = &chosen[..] else { bail!("--input needs the name of one target") };
        return libfuzzer::reproduce(&programs, target, &std::path::absolute(input)?);
    }
    if options.merge {
        return chosen.iter().try_for_each(|target| libfuzzer::merge(&programs, target));
    }
    let limit = match (options.runs, options.seconds) {
        (Some(runs), _) => Limit::Runs(runs),
        (None, seconds) => Limit::Seconds(seconds.unwrap_or(DEFAULT_SECONDS)),
    };
    let jobs = options.jobs.map_or_else(cpus, usize::from);
    run_all(&chosen, jobs, |target| libfuzzer::fuzz(&programs, target, limit))
}

/// For `cargo xtask test`: runs all targets for a short time, or reports why that is not possible.
pub(crate) fn run_briefly() -> Result<()> {
    if let Err(error) = setup::for_fuzzing() {
        run::say(&format!("skipped: fuzz targets: {error:#}"));
        return Ok(());
    }
    let programs = build::build()?;
    run_all(&find(&run::root())?, cpus(), |target| {
        libfuzzer::fuzz(&programs, target, Limit::Seconds(TEST_SECONDS))
    })
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn choose(all: Vec<Target>, names: &[String]) -> Result<Vec<Target>> {
    for name in names {
        if !all.iter().any(|target| target.name == *name) {
            bail!("unknown fuzz target {name}; `cargo xtask fuzz list` prints the targets");
        }
    }
    Ok(all.into_iter().filter(|target| names.is_empty() || names.contains(&target.name)).collect())
}

/// Runs `fuzz` for all targets, at most `jobs` at the same time. Faults are reported when all have ended.
fn run_all(targets: &[Target], jobs: usize, fuzz: impl Fn(&Target) -> Result<String> + Sync) -> Result<()> {
    let queue: Mutex<VecDeque<&Target>> = Mutex::new(targets.iter().collect());
    let faults = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..jobs.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    match fuzz(target) {
                        Ok(summary) => run::say(&summary),
                        Err(error) => {
                            run::say(&format!("fuzz target {}: {error:#}", target.name));
                            faults.lock().unwrap_or_else(PoisonError::into_inner).push(target.name.clone());
                        }
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !faults.is_empty() {
        bail!("{} of {} fuzz targets failed: {}", faults.len(), targets.len(), faults.join(", "));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the list is the result")]
fn list(targets: &[Target]) {
    for target in targets {
        println!("{:<10} {}", target.name, target.source().display());
    }
}
