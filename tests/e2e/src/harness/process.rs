//! A child process that ends with its owner.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// After SIGTERM a process has this long.
const GRACE: Duration = Duration::from_secs(8);
const LOG_TAIL_LINES: usize = 15;

/// Ended on drop: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its output in a file of `logs`; as a member of the
    /// cgroup whose `cgroup.procs` is given.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[String],
        environment: &[(&str, String)],
        logs: &Path,
        cgroup_procs: Option<&Path>,
    ) -> Result<Self> {
        if !program.exists() {
            bail!("{} is not built; `cargo xtask test` and `cargo xtask demo` build it", program.display());
        }
        let log = logs.join(format!("{name}.log"));
        let output =
            File::options().create(true).append(true).open(&log).context("cannot make a log file")?;
        // Should this process be killed outright, the kernel ends the child: nothing
        // is left running.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]);
        if let Some(procs) = cgroup_procs {
            // The process must be in its cgroup before it makes its first socket.
            command.args(["sh", "-c", "echo $$ > \"$1\" && shift && exec \"$@\"", "sh"]).arg(procs);
        }
        let child = command
            .arg(program)
            .args(args)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits; SIGKILL when that takes too long. The exit status, if it
    /// ended by itself.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
        self.kill();
        None
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where the running program lies; a test's own folder is one below.
pub(super) fn own_folder() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("the running program has no folder")?;
    let above = if folder.ends_with("deps") { folder.parent() } else { None };
    Ok(above.unwrap_or(folder).to_owned())
}

/// A program beside the running one.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(own_folder()?.join(name))
}
