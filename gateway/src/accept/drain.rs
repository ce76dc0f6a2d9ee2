use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Tells the connections of a listener to drain. Connections check [`Drain::has_begun`], one atomic load, on every poll.
#[derive(Clone, Debug, Default)]
pub(super) struct Drain {
    has_begun: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Drain {
    pub(super) fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// Cancelled when the drain begins.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
