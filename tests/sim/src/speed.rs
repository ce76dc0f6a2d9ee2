//! The speed of the engine, which can change while it runs.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Time between two readings of the file.
const POLL: Duration = Duration::from_millis(20);

/// Percent of the normal speed. 0: the engine hangs, while its server responds.
#[derive(Debug)]
pub(crate) struct Speed(AtomicU32);

impl Speed {
    pub(crate) fn normal() -> Self {
        Self(AtomicU32::new(100))
    }

    /// Follows the number in a file. Without the file the speed is normal.
    pub(crate) async fn follow(&self, file: &Path) {
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            self.0.store(text.trim().parse().unwrap_or(100), Relaxed);
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn percent(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Waits as long as work takes that needs `duration` at normal speed.
    pub(crate) async fn work(&self, duration: Duration) {
        while self.0.load(Relaxed) == 0 {
            tokio::time::sleep(POLL).await;
        }
        tokio::time::sleep(duration * 100 / self.0.load(Relaxed).max(1)).await;
    }
}
