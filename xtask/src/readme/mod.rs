//! `cargo xtask readme`: runs every command line of the README in a fresh clone, as a new user would.

mod commands;
mod demo;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use self::{
    commands::{Run, commands, how},
    demo::Demo,
};
use crate::run;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run only commands that contain this text.
    filter: Option<String>,
    /// Use this clone and keep it, instead of a new one that is removed at the end.
    #[arg(long, value_name = "FOLDER")]
    clone: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let clone = Clone::of(options)?;
    let readme = fs::read_to_string(clone.path.join("README.md"))?;
    let mut failed = Vec::new();
    // Started by the first command that needs it.
    let mut demo = None;
    for command in commands(&readme) {
        if options.filter.as_ref().is_some_and(|filter| !command.contains(filter)) {
            continue;
        }
        let how = how(&command).with_context(|| format!("no way is known to run `{command}`"))?;
        if let Run::Elsewhere(reason) = how {
            run::say(&format!("skipped: {command}: {reason}"));
        } else if let Err(error) = clone.run(&command, how, &mut demo) {
            run::say(&format!("failed: {command}: {error:#}"));
            failed.push(command);
        }
    }
    if !failed.is_empty() {
        bail!("these commands of the README fail in a fresh clone: {}", failed.join("; "));
    }
    Ok(())
}

/// A clone without build outputs.
struct Clone {
    path: PathBuf,
    is_kept: bool,
}

impl Clone {
    /// The commit that is checked out here, without changes that are not committed.
    fn of(options: &Options) -> Result<Self> {
        let path = options.clone.clone().unwrap_or_else(|| run::root().join("target/readme"));
        let clone = Self { path, is_kept: options.clone.is_some() };
        if !(clone.is_kept && clone.path.exists()) {
            let _ = fs::remove_dir_all(&clone.path);
            let source = run::root();
            run::step(
                "cloning",
                Command::new("git").args(["clone", "--quiet"]).arg(&source).arg(&clone.path),
            )?;
        }
        Ok(clone)
    }

    fn run(&self, command: &str, how: Run, demo: &mut Option<Demo>) -> Result<()> {
        let line = match how {
            Run::AsIs => command.to_owned(),
            Run::Instead(shorter) => shorter.to_owned(),
            Run::WithDemo(line) => {
                if demo.is_none() {
                    *demo = Some(Demo::start(&self.path)?);
                }
                demo.as_ref().map_or_else(String::new, |demo| demo.fill_in(line))
            }
            Run::Elsewhere(_) => return Ok(()),
        };
        run::say(&format!("$ {line}"));
        let started = Instant::now();
        let status = shell(&line, &self.path).stdin(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "{status}");
        run::say(&format!("ok after {:.0} s: {command}", started.elapsed().as_secs_f64()));
        Ok(())
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A shell in the clone that finds the programs built there.
fn shell(line: &str, clone: &Path) -> Command {
    let mut shell = Command::new("bash");
    let mut path = clone.join("target/debug").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    shell.args(["-o", "pipefail", "-c", line]).current_dir(clone).env("PATH", path);
    // Variables of the cargo that runs this task would apply to the clone too.
    for (name, _) in std::env::vars_os() {
        let is_of_cargo = |name: &str| name == "CARGO" || name.starts_with("CARGO_PKG_");
        if name.to_str().is_some_and(|name| is_of_cargo(name) || name == "CARGO_MANIFEST_DIR") {
            shell.env_remove(name);
        }
    }
    shell
}
