//! The frames for one reader of ended requests.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use forebay_telemetry::v1::{DroppedRequests, EndedRequest, Node, RequestFrame};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Publisher,
    requests::{Drops, Ended, Filter},
};
use crate::kernel::boottime_ns;

/// Maximum requests of a frame (about 50 KiB).
const MAX_FRAME_REQUESTS: usize = 256;
/// Shortest time between two frames of which the first was not full.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time between two frames.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Frames for one reader. It is removed from the feed when this is dropped.
#[derive(Debug)]
pub(super) struct RequestSubscription {
    publisher: Arc<Publisher>,
    id: u64,
    queue: mpsc::Receiver<Ended>,
    drops: Arc<Drops>,
    /// Events that the kernel programs had dropped at the start of the stream.
    kernel_events_before: Option<u64>,
    /// Of the last frame; `None` before the first.
    sent_at: Option<Instant>,
    buffer: Vec<Ended>,
}

impl RequestSubscription {
    /// Starts a stream.
    pub(super) fn new(publisher: Arc<Publisher>, filter: Filter, max_per_second: u32) -> Self {
        let (id, queue, drops) = publisher.requests().add(filter, max_per_second);
        let kernel_events_before = publisher.drop_counters().map(|counters| counters.events_dropped);
        Self { publisher, id, queue, drops, kernel_events_before, sent_at: None, buffer: Vec::new() }
    }

    /// Waits until the next frame is due. `None` if there will be no more requests. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<RequestFrame> {
        let Some(sent_at) = self.sent_at else {
            let (snapshot, _version) = self.publisher.snapshot();
            return Some(self.frame(snapshot.node));
        };
        if self.buffer.len() < MAX_FRAME_REQUESTS {
            tokio::time::sleep_until(sent_at + MIN_INTERVAL).await;
        }
        self.buffer.clear();
        let more = self.queue.recv_many(&mut self.buffer, MAX_FRAME_REQUESTS);
        match tokio::time::timeout_at(sent_at + HEARTBEAT, more).await {
            Ok(0) => None,
            Ok(_) | Err(_) => Some(self.frame(None)),
        }
    }

    fn frame(&mut self, node: Option<Node>) -> RequestFrame {
        self.sent_at = Some(Instant::now());
        RequestFrame {
            sent_boottime_ns: boottime_ns(),
            node,
            requests: self.buffer.iter().cloned().map(EndedRequest::from).collect(),
            dropped: Some(DroppedRequests {
                over_rate: self.drops.over_rate.load(Relaxed),
                unread: self.drops.unread.load(Relaxed),
                kernel_events: self.kernel_events_dropped(),
            }),
        }
    }

    /// The counters are read about every second. A stream that began before the first one counts from it.
    fn kernel_events_dropped(&mut self) -> Option<u64> {
        let now = self.publisher.drop_counters()?.events_dropped;
        Some(now.saturating_sub(*self.kernel_events_before.get_or_insert(now)))
    }
}

impl Drop for RequestSubscription {
    fn drop(&mut self) {
        self.publisher.requests().remove(self.id);
    }
}

#[cfg(test)]
mod tests;
