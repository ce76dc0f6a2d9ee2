//! The live table of pods, as `forebay pods` shows it.

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

const EVERY: Duration = Duration::from_secs(1);

/// Shown until stopped.
pub(super) struct Watching {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

pub(super) fn start(harness: &Harness) -> Watching {
    let over = Arc::new(AtomicBool::new(false));
    let (program, agent) = (harness.program("forebay"), harness.network.agent().to_string());
    let thread = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            loop {
                thread::park_timeout(EVERY);
                if over.load(Ordering::Acquire) {
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
    Watching { over, thread }
}

impl Watching {
    pub(super) fn stop(self) {
        self.over.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}
