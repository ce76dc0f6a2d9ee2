//! Options of the kernel side.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where the kernel side pins its maps and links.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder on a bpffs, created if missing (`/sys/fs/bpf/forebay`).
    pub pin_root: PathBuf,
    /// Whether maps and links stay pinned at shutdown, for the next agent to adopt.
    pub keep_pins: KeepPins,
}

/// A shared flag, read at shutdown.
#[derive(Clone, Debug, Default)]
pub struct KeepPins(Arc<AtomicBool>);

impl KeepPins {
    /// Sets the flag for all clones.
    pub fn set(&self, keep: bool) {
        self.0.store(keep, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl From<bool> for KeepPins {
    fn from(keep: bool) -> Self {
        Self(Arc::new(AtomicBool::new(keep)))
    }
}
