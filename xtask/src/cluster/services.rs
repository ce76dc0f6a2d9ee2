//! Processes of the cluster. They outlive the task and are found by pid files.

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

const POLL_INTERVAL: Duration = Duration::from_millis(100);
const LOG_TAIL_LINES: usize = 8;

impl Cluster {
    /// Starts a program with its output in `logs/`.
    pub(super) fn start(&self, binaries: &Binaries, name: &str, args: &[String]) -> Result<()> {
        let log = File::create(self.path(format!("logs/{name}.log")))?;
        let child = network::command(&binaries.program(name).to_string_lossy())
            .args(args)
            .env("PATH", binaries.search_path())
            .current_dir(&self.state)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Own process group: Ctrl-C during a later task must not stop the cluster.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        fs::write(self.path(format!("pids/{name}")), child.id().to_string())?;
        Ok(())
    }

    /// Pid of the program, if it is running. A pid that was reused by another program does not count.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.path(format!("pids/{name}"))).ok()?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        arguments
            .iter()
            .any(|argument| PathBuf::from(&**argument).file_name().is_some_and(|file| file == name))
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
        timeout: Duration,
        program: &str,
        mut command: impl FnMut() -> Result<Command>,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            if run::succeeds(&mut command()?) {
                return Ok(());
            }
            let ended = self.pid(program).is_none();
            if ended || Instant::now() > deadline {
                let state = if ended { "exited" } else { "was not ready" };
                bail!(
                    "{what}: {program} {state} within {timeout:?}; end of its log:\n{}",
                    self.log_tail(program)
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn log_tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(format!("logs/{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}
