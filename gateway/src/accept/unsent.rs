//! Bounds response data that clients have not taken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;

/// Bytes of one HTTP/2 connection from which on its responses read no more data.
const MAX_CONNECTION_BYTES: usize = 4 << 20;
/// Bytes of all HTTP/2 connections from which on a connection reads only what it can send at once.
const MAX_TOTAL_BYTES: usize = 512 << 20;

/// Maximum wakers of streams that wait for room.
const MAX_WAITING: usize = 4096;

/// Response data of all HTTP/2 connections that was not written to a socket yet.
///
/// Each stream has its own flow control window, so hyper and h2 buffer a frame or more per stream. With HTTP/1, hyper
/// stops at 128 KiB per connection.
#[derive(Debug, Default)]
pub(super) struct UnsentTotal {
    bytes: AtomicUsize,
    gauge: Gauge,
}

impl UnsentTotal {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { bytes: AtomicUsize::new(0), gauge }
    }
}

/// Response data of one HTTP/2 connection that was not written to its socket yet.
#[derive(Debug)]
pub(super) struct Unsent {
    total: Arc<UnsentTotal>,
    bytes: AtomicUsize,
    /// Streams that wait for room. Woken when data was written.
    waiting: Mutex<Vec<Waker>>,
}

impl Unsent {
    pub(super) fn new(total: Arc<UnsentTotal>) -> Arc<Self> {
        Arc::new(Self { total, bytes: AtomicUsize::new(0), waiting: Mutex::default() })
    }

    /// Ready if another frame may be read. One frame is always allowed.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            // Streams that have ended are still in the list. The others wait again.
            waiting.drain(..).for_each(Waker::wake);
        }
        waiting.push(cx.waker().clone());
        drop(waiting);
        // A frame may have been written meanwhile.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_room(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Acquire);
        bytes == 0
            || (bytes < MAX_CONNECTION_BYTES && self.total.bytes.load(Ordering::Relaxed) < MAX_TOTAL_BYTES)
    }

    /// The same data, counted until it was written or dropped.
    pub(super) fn count(self: &Arc<Self>, data: Bytes) -> Bytes {
        let bytes = data.len();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.gauge.inc_by(bytes as i64);
        Bytes::from_owner(Counted { data, unsent: self.clone() })
    }

    fn release(&self, bytes: usize) {
        self.total.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.total.gauge.dec_by(bytes as i64);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}

struct Counted {
    data: Bytes,
    unsent: Arc<Unsent>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.unsent.release(self.data.len());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn has_room(unsent: &Unsent) -> bool {
        poll_fn(|cx| Poll::Ready(unsent.poll_room(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_connection_reads_no_more_than_its_share() {
        let total = Arc::new(UnsentTotal::default());
        let (full, other) = (Unsent::new(total.clone()), Unsent::new(total.clone()));
        let data = full.count(Bytes::from(vec![0; MAX_CONNECTION_BYTES]));
        assert!(!has_room(&full).await);
        assert!(has_room(&other).await);
        let end = data.slice(MAX_CONNECTION_BYTES - 1..);
        drop(data);
        assert!(!has_room(&full).await, "a part of the data is unsent");
        drop(end);
        assert!(has_room(&full).await);
        assert_eq!((total.gauge.get(), full.waiting.lock().unwrap().len()), (0, 0));
    }

    #[tokio::test]
    async fn above_the_total_each_connection_has_one_frame() {
        let total = Arc::new(UnsentTotal::default());
        let others: Vec<Arc<Unsent>> = (0..3).map(|_| Unsent::new(total.clone())).collect();
        total.bytes.store(MAX_TOTAL_BYTES, Ordering::Relaxed);
        let data: Vec<Bytes> = others.iter().map(|unsent| unsent.count(Bytes::from_static(b"x"))).collect();
        assert!(!has_room(&others[0]).await);
        assert!(has_room(&Unsent::new(total)).await);
        drop(data);
        assert!(has_room(&others[0]).await);
    }
}
