//! Runs programs that are linked with libFuzzer, and reads what they print.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{build::folder, targets::Target};
use crate::run;

/// Inputs up to this size. Longer ones rarely reach more code, and take more time.
const MAX_INPUT_BYTES: &str = "-max_len=1536";
/// An input that takes longer than this many seconds is a fault, as is one that needs more than 2 GiB.
const BOUNDS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=2048"];

/// Keeps small inputs that reach new code. How often they reach it and what they compare does not count.
const MERGE: [&str; 4] = ["-set_cover_merge=1", "-use_counters=0", "-use_cmp=0", "-max_len=512"];

/// When fuzzing ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// After this many executions.
    Runs(u64),
    /// After this many seconds.
    Seconds(u64),
}

/// Fuzzes one target. Returns one line with what libFuzzer counted.
pub(super) fn fuzz(programs: &Path, target: &Target, limit: Limit) -> Result<String> {
    let found = subfolder("corpus", target)?;
    let artifacts = subfolder("artifacts", target)?;
    let log = folder().join(format!("{}.log", target.name));
    let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut command = program(programs, target);
    command.args(["-print_final_stats=1", MAX_INPUT_BYTES]).args(BOUNDS);
    command.arg(match limit {
        Limit::Runs(runs) => format!("-runs={runs}"),
        Limit::Seconds(seconds) => format!("-max_total_time={seconds}"),
    });
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let dictionary = run::root().join(target.dictionary());
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    // New inputs are written to the first folder.
    command.arg(found).arg(run::root().join(target.corpus()));
    let status =
        command.stdout(output.try_clone()?).stderr(output).status().context("cannot start the target")?;
    let printed = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let printed = String::from_utf8_lossy(&printed);
    if status.success() {
        return Ok(format!("fuzz target {}: {}", target.name, summary(&printed)?));
    }
    let reason = fault(&printed).unwrap_or("it ended with an error");
    match reproducer(&printed) {
        Some(input) => bail!(
            "{reason}\n  input: {input}\n  output: {}\n  run it again: cargo xtask fuzz {} --input {input}",
            log.display(),
            target.name
        ),
        None => bail!("{reason}; see {}", log.display()),
    }
}

/// Runs one target on one input, with its output shown.
pub(super) fn reproduce(programs: &Path, target: &Target, input: &Path) -> Result<()> {
    run::step(
        &format!("{} on {}", target.name, input.display()),
        program(programs, target).args(BOUNDS).arg(input),
    )
}

/// Adds the inputs that reach more code than the committed ones, as few as possible.
pub(super) fn merge(programs: &Path, target: &Target) -> Result<()> {
    let mut command = program(programs, target);
    command.args(MERGE).arg(run::root().join(target.corpus()));
    run::quiet(command.arg(subfolder("corpus", target)?))
}

fn program(programs: &Path, target: &Target) -> Command {
    let mut command = Command::new(programs.join(&target.name));
    command.current_dir(folder());
    command
}

/// `target/fuzz/KIND/TARGET`, which exists then.
fn subfolder(kind: &str, target: &Target) -> Result<PathBuf> {
    let path = folder().join(kind).join(&target.name);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

/// What libFuzzer counted, from its own output.
fn summary(printed: &str) -> Result<String> {
    let value = |name: &str| {
        let value = printed.lines().rev().find_map(|line| line.strip_prefix(name));
        value.map(str::trim).with_context(|| format!("libFuzzer has not printed {name}"))
    };
    let coverage = printed.split("cov: ").last().and_then(|rest| rest.split(' ').next()).unwrap_or("no");
    Ok(format!(
        "{} executions, {} exec/s, {coverage} edges; no fault found",
        value("stat::number_of_executed_units:")?,
        value("stat::average_exec_per_sec:")?
    ))
}

/// The message of a panic, or what libFuzzer found.
fn fault(printed: &str) -> Option<&str> {
    let panic = printed.find("panicked at ").map(|at| {
        let message = &printed[at..];
        let end = message.find("stack backtrace:").or(message.find("\n==")).unwrap_or(message.len());
        message[..end].trim_end()
    });
    panic.or_else(|| printed.lines().find(|line| line.contains("ERROR: libFuzzer:")))
}

fn reproducer(printed: &str) -> Option<&str> {
    printed.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened output of libFuzzer.
    const CLEAN: &str = "#2\tINITED cov: 10 ft: 11\n#900\tREDUCE cov: 42 ft: 99 corp: 7/9b\n\
        Done 900 runs in 1 second(s)\nstat::number_of_executed_units: 900\nstat::average_exec_per_sec:     450\n";
    const CRASH: &str = "thread '<unnamed>' (7) panicked at a.rs:4:5:\nleft differs\nstack backtrace:\n   0: x\n\
        ==7== ERROR: libFuzzer: deadly signal\nartifact_prefix='/t/'; Test unit written to /t/crash-1\n";

    #[test]
    fn prints_what_libfuzzer_counted() {
        assert_eq!(summary(CLEAN).unwrap(), "900 executions, 450 exec/s, 42 edges; no fault found");
        assert!(summary("killed").is_err());
    }

    #[test]
    fn names_the_fault_and_its_input() {
        assert_eq!(fault(CRASH), Some("panicked at a.rs:4:5:\nleft differs"));
        assert_eq!(reproducer(CRASH), Some("/t/crash-1"));
        let timeout = "==7== ERROR: libFuzzer: timeout after 10 seconds\n";
        assert_eq!(fault(timeout), Some("==7== ERROR: libFuzzer: timeout after 10 seconds"));
        assert_eq!(reproducer(timeout), None);
    }
}
