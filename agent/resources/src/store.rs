//! The store: holds the current snapshot.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::snapshot::Snapshot;

/// Holds the newest [`Snapshot`]. Readers never wait for a writer.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    /// Serialises writers, which assign generations.
    writer: Mutex<()>,
}

impl Store {
    /// An empty store of generation 0.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(Snapshot::default()),
            generation: watch::Sender::new(0),
            writer: Mutex::new(()),
        })
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The generation, as it changes. The snapshot is stored before the receiver wakes, so it is at least as new as
    /// the received number.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Waits for the first snapshot of a provider.
    pub async fn loaded(&self) {
        // Cannot fail: `self` owns the sender.
        let _ = self.subscribe().wait_for(|generation| *generation > 0).await;
    }

    /// For providers: replaces the snapshot. The store assigns its generation.
    pub fn replace(&self, mut next: Snapshot) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        next.generation = self.current.load().generation + 1;
        let generation = next.generation;
        self.current.store(Arc::new(next));
        self.generation.send_replace(generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_snapshots_and_wakes_subscribers() {
        let store = Store::new();
        let mut generations = store.subscribe();
        assert_eq!(store.snapshot().generation, 0);
        store.replace(Snapshot { generation: 77, ..Snapshot::default() });
        assert!(generations.has_changed().unwrap());
        assert_eq!(*generations.borrow_and_update(), 1);
        assert_eq!(store.snapshot().generation, 1);
    }
}
