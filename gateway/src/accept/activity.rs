use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What one client connection does. Shared by its socket, its requests and its deadlines.
#[derive(Debug, Default)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    /// The first request has arrived.
    has_begun: AtomicBool,
    /// Bytes of a request head that have arrived while no request was in flight.
    head_bytes: AtomicUsize,
    /// A request body was not read to its end, so further bytes of it may arrive.
    has_unread_body: Arc<AtomicBool>,
    /// The client took no data for the write timeout.
    is_stalled: AtomicBool,
}

impl Activity {
    /// A request begins. It is in flight until the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.has_begun.store(true, Ordering::Relaxed);
        self.head_bytes.store(0, Ordering::Relaxed);
        InFlight(self.clone())
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Bytes of the client have arrived.
    pub(super) fn received(&self, bytes: usize) {
        if self.is_idle() {
            self.head_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A request head has arrived in part.
    pub(super) fn is_in_head(&self) -> bool {
        self.head_bytes() > 0
    }

    /// The size of the part of a request head that has arrived.
    pub(super) fn head_bytes(&self) -> usize {
        if self.is_idle() { self.head_bytes.load(Ordering::Relaxed) } else { 0 }
    }

    /// Set when a request body is dropped before its end.
    pub(super) fn unread_body(&self) -> Arc<AtomicBool> {
        self.has_unread_body.clone()
    }

    /// Whether bytes may arrive that no request reads.
    pub(super) fn expects_unread(&self) -> bool {
        self.has_unread_body.load(Ordering::Relaxed) || self.is_in_head()
    }

    pub(super) fn set_stalled(&self) {
        self.is_stalled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl InFlight {
    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
