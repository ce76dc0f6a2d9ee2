use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::replies::Replies;
use crate::runtime::worker_index;

/// Maximum time for a picker to end its side of a finished stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum half-closed streams per worker. Beyond that the oldest is reset.
const MAX_HALF_CLOSED: usize = 4096;

/// Streams whose sending side has ended, until the picker ends its side.
///
/// Dropping a stream earlier resets it, and the picker might not read the last messages.
#[derive(Clone, Debug)]
pub(crate) struct HalfClosedStreams(Arc<[Queue]>);

/// Streams of one worker, oldest first, with the time at which the sending side ended.
type Queue = Mutex<VecDeque<(Instant, Replies)>>;

impl HalfClosedStreams {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Mutex::default()).collect())
    }

    /// Keeps a stream whose sending side has ended.
    pub(super) fn add(&self, replies: Replies) {
        if !matches!(replies, Replies::Open(_)) {
            return;
        }
        let expired = {
            let queue = &self.0[worker_index() % self.0.len()];
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back((Instant::now(), replies));
            let is_expired = queue.len() > MAX_HALF_CLOSED
                || queue.front().is_some_and(|(since, _)| since.elapsed() >= CLOSE_TIMEOUT);
            // At most one is removed for one that is added, so the cost is constant.
            if is_expired { queue.pop_front() } else { None }
        };
        drop(expired);
    }

    /// Drops expired streams. Called periodically.
    pub(crate) fn sweep(&self) {
        for queue in &*self.0 {
            let mut expired = Vec::new();
            {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                while queue.front().is_some_and(|(since, _)| since.elapsed() >= CLOSE_TIMEOUT) {
                    expired.extend(queue.pop_front());
                }
            }
            drop(expired);
        }
    }
}
