//! A child process that is stopped on drop.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(8);
const LOG_TAIL_LINES: usize = 15;

/// A child process. Drop sends SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its output in `logs/NAME.log`. `cgroup_procs`: the `cgroup.procs` of the cgroup to start
    /// in.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[String],
        environment: &[(&str, String)],
        logs: &Path,
        cgroup_procs: Option<&Path>,
    ) -> Result<Self> {
        if !program.exists() {
            bail!("{} does not exist; build it with `cargo build --workspace --bins`", program.display());
        }
        let log = logs.join(format!("{name}.log"));
        let output =
            File::options().create(true).append(true).open(&log).context("cannot create a log file")?;
        // If this process is killed, the kernel sends SIGTERM to the child.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]);
        if let Some(procs) = cgroup_procs {
            // Join the cgroup before the program creates its first socket.
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

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Stops the process (SIGSTOP) until it is continued: its sockets stay open, and it does not reply.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Continues a frozen process.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("the process has no pid")?, signal)?)
    }

    /// Sends SIGKILL and waits.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits; sends SIGKILL after a timeout. Returns the exit status if the process ended in time.
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

    /// The last lines of the output.
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

/// Folder of the programs. Test programs are in its subfolder `deps`.
pub(super) fn own_folder() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("the path of this program has no folder")?;
    let above = if folder.ends_with("deps") { folder.parent() } else { None };
    Ok(above.unwrap_or(folder).to_owned())
}

/// Path of a program in the same target folder.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(own_folder()?.join(name))
}
