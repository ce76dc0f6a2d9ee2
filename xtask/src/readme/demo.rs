//! The demo, kept running for commands that need an agent.

use std::{
    fs,
    net::SocketAddr,
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
}

impl Demo {
    pub(super) fn start(clone: &Path) -> Result<Self> {
        let line = "cargo xtask demo --keep";
        run::say(&format!("$ {line} &"));
        let log = clone.join("target").join("demo.log");
        fs::create_dir_all(clone.join("target"))?;
        let mut command = shell(line, clone);
        let process = command.stdout(fs::File::create(&log)?).process_group(0).spawn()?;
        let mut demo = Self { process, agent: String::new() };
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let text = fs::read_to_string(&log)?;
            if text.contains("Serving until Ctrl-C") {
                demo.agent =
                    address_after("agent ", &text).context("the demo prints no address of the agent")?;
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

    /// `line` with the address of the demo's agent.
    pub(super) fn fill_in(&self, line: &str) -> String {
        line.replace("{agent}", &self.agent)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", "--", &format!("-{}", self.process.id())]).status();
        let _ = self.process.wait();
    }
}

/// The first address that directly follows `name`.
fn address_after(name: &str, text: &str) -> Option<String> {
    let words = text.split(name).skip(1).filter_map(|rest| rest.split_whitespace().next());
    words.map(str::to_owned).find(|word| word.parse::<SocketAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_addresses_behind_names_that_also_stand_in_sentences() {
        let text = "Starting the agent and the gateway …\n  agent 10.0.0.1:9550   ready";
        assert_eq!(address_after("agent ", text).as_deref(), Some("10.0.0.1:9550"));
        assert_eq!(address_after("agent ", "Starting the agent and the gateway …"), None);
    }
}
