//! The demo, kept running for commands that need an agent or a gateway.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::shell;
use crate::run;

/// A fresh clone compiles everything first.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A running demo and its process group. Drop stops it.
pub(super) struct Demo {
    process: Child,
    agent: String,
    gateway: String,
}

impl Demo {
    pub(super) fn start(clone: &Path) -> Result<Self> {
        let line = "cargo xtask demo --keep";
        run::say(&format!("$ {line} &"));
        let log = clone.join("target").join("demo.log");
        fs::create_dir_all(clone.join("target"))?;
        let mut command = shell(line, clone);
        let process = command.stdout(fs::File::create(&log)?).process_group(0).spawn()?;
        let mut demo = Self { process, agent: String::new(), gateway: String::new() };
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let text = fs::read_to_string(&log)?;
            if text.contains("Serving until Ctrl-C") {
                let after = |name: &str| {
                    let (_, rest) = text.split_once(name)?;
                    rest.split_whitespace().next().map(str::to_owned)
                };
                demo.agent = after("agent ").context("the demo names no agent")?;
                demo.gateway = after("gateway ").context("the demo names no gateway")?;
                return Ok(demo);
            }
            if let Some(status) = demo.process.try_wait()? {
                bail!("the demo ended with {status}:\n{text}");
            }
            if Instant::now() > deadline {
                bail!("the demo is not ready:\n{text}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// `line` with the addresses of the demo.
    pub(super) fn fill_in(&self, line: &str) -> String {
        line.replace("{agent}", &self.agent).replace("{gateway}", &self.gateway)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", "--", &format!("-{}", self.process.id())]).status();
        let _ = self.process.wait();
    }
}
