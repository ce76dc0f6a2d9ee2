//! Bounds client connections.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, oneshot};

/// Maximum client connections, if file descriptors suffice. Further connections wait in the listen queue of the kernel.
pub(crate) const MAX_CONNECTIONS: usize = 65_536;
/// One of so many connections may be pending.
const PENDING_DIVISOR: usize = 16;
const MIN_PENDING: usize = 16;

/// The places of client connections.
///
/// A connection is pending until its first request: it opens TCP, TLS and HTTP, for which a client needs no rights.
/// Pending connections have places of their own. If all of them are taken, the oldest pending connection is closed, so
/// a flood of unfinished handshakes neither closes established connections nor keeps new clients out.
#[derive(Debug)]
pub(super) struct Places {
    max_established: usize,
    max_pending: usize,
    established: AtomicUsize,
    freed: Notify,
    pending: Mutex<Pending>,
    /// Pending connections that were closed for a new one.
    evicted: Counter,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    /// Oldest first. Dropping a sender evicts its connection.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Places {
    /// `max`: of all connections.
    pub(super) fn new(max: usize, evicted: Counter) -> Arc<Self> {
        let max_pending = (max / PENDING_DIVISOR).max(MIN_PENDING);
        Arc::new(Self {
            max_established: max.saturating_sub(max_pending).max(1),
            max_pending,
            established: AtomicUsize::new(0),
            freed: Notify::new(),
            pending: Mutex::default(),
            evicted,
        })
    }

    /// Waits until another connection can be established.
    pub(super) async fn free(&self) {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the check, so that no notification between them is lost.
            freed.as_mut().enable();
            if self.established.load(Ordering::Relaxed) < self.max_established {
                return;
            }
            freed.await;
        }
    }

    /// A place for a new connection. May evict the oldest pending connection.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let (sender, evicted) = oneshot::channel();
        let mut pending = self.lock();
        let oldest = if pending.by_age.len() >= self.max_pending { pending.by_age.pop_first() } else { None };
        let number = pending.next;
        pending.next += 1;
        pending.by_age.insert(number, sender);
        drop(pending);
        if oldest.is_some() {
            self.evicted.inc();
        }
        Place { places: self.clone(), pending: Some((number, evicted)) }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    /// `None` once the connection is established.
    pending: Option<(u64, oneshot::Receiver<()>)>,
}

impl Place {
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The connection is established. As many connections as are pending may exceed the limit for a short time.
    pub(super) fn establish(&mut self) {
        if let Some((number, _)) = self.pending.take() {
            self.places.lock().by_age.remove(&number);
            self.places.established.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ready when the connection must be closed for a new one.
    pub(super) fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.pending {
            Some((_, evicted)) => Pin::new(evicted).poll(cx).map(drop),
            None => Poll::Pending,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.pending.take() {
            Some((number, _)) => drop(self.places.lock().by_age.remove(&number)),
            None => {
                self.places.established.fetch_sub(1, Ordering::Relaxed);
                self.places.freed.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn is_evicted(place: &mut Place) -> bool {
        poll_fn(|cx| Poll::Ready(place.poll_evicted(cx).is_ready())).await
    }

    #[tokio::test]
    async fn evicts_the_oldest_pending_connection_and_no_established_one() {
        let places = Places::new(MIN_PENDING + 1, Counter::default());
        let mut established = places.enter();
        established.establish();
        let mut pending: Vec<Place> = (0..MIN_PENDING).map(|_| places.enter()).collect();
        assert!(!is_evicted(&mut pending[0]).await);
        let mut newest = places.enter();
        assert!(is_evicted(&mut pending[0]).await);
        for place in [&mut established, &mut newest].into_iter().chain(&mut pending[1..]) {
            assert!(!is_evicted(place).await);
        }
        drop(pending);
        assert_eq!((places.lock().by_age.len(), places.evicted.get()), (1, 1));
    }

    #[tokio::test]
    async fn waits_for_an_established_connection_to_end() {
        let places = Places::new(MIN_PENDING + 1, Counter::default());
        places.free().await;
        let mut place = places.enter();
        places.free().await;
        place.establish();
        let mut free = pin!(places.free());
        assert!(poll_fn(|cx| Poll::Ready(free.as_mut().poll(cx).is_pending())).await);
        drop(place);
        free.await;
    }
}
