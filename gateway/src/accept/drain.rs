use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Tells the connections of a listener that they are to end. Asking whether it has begun costs next to nothing, as
/// connections do whenever they are awake.
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

    /// Wakes who waits for it.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
