//! Prints the table of `forebay pods` at an interval.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use forebay_e2e::harness::Harness;

use crate::output::show;

const INTERVAL: Duration = Duration::from_secs(1);

/// A thread that prints the table until it is stopped.
pub(super) struct Watch {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

pub(super) fn start(harness: &Harness) -> Watch {
    let stopped = Arc::new(AtomicBool::new(false));
    let (program, agent) = (harness.program("forebay"), harness.network.agent().to_string());
    let thread = {
        let stopped = Arc::clone(&stopped);
        thread::spawn(move || {
            loop {
                thread::park_timeout(INTERVAL);
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let table =
                    Command::new(&program).args(["pods", "--agents", &agent]).stderr(Stdio::null()).output();
                if let Ok(table) = table {
                    let table = String::from_utf8_lossy(&table.stdout);
                    show(&table.lines().map(|line| format!("  {line}\n")).collect::<String>());
                }
            }
        })
    };
    Watch { stopped, thread }
}

impl Watch {
    pub(super) fn stop(self) {
        self.stopped.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}
