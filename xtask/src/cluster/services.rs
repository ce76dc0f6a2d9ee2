//! The cluster's programs as processes that outlive the task, known by pid files.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Binaries, Cluster, network};
use crate::run;

const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(100);
const LOG_TAIL_LINES: usize = 8;

impl Cluster {
    /// Starts one program with its output in `logs/`.
    pub(super) fn start(&self, binaries: &Binaries, name: &str, args: &[String]) -> Result<()> {
        let log = File::create(self.path(format!("logs/{name}.log")))?;
        let child = network::inside(&binaries.program(name).to_string_lossy())
            .args(args)
            .env("PATH", binaries.search_path())
            .current_dir(&self.state)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at a later task must not end the cluster.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        fs::write(self.path(format!("pids/{name}")), child.id().to_string())?;
        Ok(())
    }

    /// Its pid, if it still runs. A pid that another program has got is not it.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.path(format!("pids/{name}"))).ok()?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words
            .iter()
            .any(|word| PathBuf::from(&**word).file_name().is_some_and(|file| file == name))
            .then_some(pid)
    }

    pub(super) fn signal(&self, name: &str, signal: &str) {
        if let Some(pid) = self.pid(name) {
            let _ = run::quiet(Command::new("kill").args([signal, &pid.to_string()]));
        }
    }

    /// Waits until a command succeeds.
    pub(super) fn until(
        &self,
        what: &str,
        patience: Duration,
        program: &str,
        mut command: impl FnMut() -> Result<Command>,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if run::succeeds(&mut command()?) {
                return Ok(());
            }
            let ended = self.pid(program).is_none();
            if ended || Instant::now() > deadline {
                let how = if ended { "ended" } else { "is not ready" };
                bail!(
                    "{what}: {program} {how} after {patience:?} at most; its log ends:\n{}",
                    self.log_tail(program)
                );
            }
            std::thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
    }

    fn log_tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(format!("logs/{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}
