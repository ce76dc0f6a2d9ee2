use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::replies::Replies;
use crate::workers;

/// How long a picker may take to end its side of a finished stream.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// Most finished streams of a worker that wait for that; of more, the oldest are reset.
const MAX_CLOSING: usize = 4096;

/// Streams that are finished and wait for the picker's end. Dropped before, a stream is reset, and what was sent last
/// might not be read.
#[derive(Clone, Debug)]
pub(crate) struct Closing(Arc<[OfWorker]>);

/// Oldest first, each with the time of its finish.
type OfWorker = Mutex<VecDeque<(Instant, Replies)>>;

impl Closing {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Mutex::default()).collect())
    }

    /// All has been sent, and the picker was told so.
    pub(super) fn close(&self, replies: Replies) {
        if !matches!(replies, Replies::Open(_)) {
            return;
        }
        let over = {
            let of_worker = &self.0[workers::index() % self.0.len()];
            let mut waiting = of_worker.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push_back((Instant::now(), replies));
            let is_over = waiting.len() > MAX_CLOSING
                || waiting.front().is_some_and(|(since, _)| since.elapsed() >= CLOSING_TIME);
            // One for one: there are never more than come.
            if is_over { waiting.pop_front() } else { None }
        };
        drop(over);
    }

    /// Lets go of those whose time is over. To be called now and then.
    pub(crate) fn sweep(&self) {
        for of_worker in &*self.0 {
            let mut over = Vec::new();
            {
                let mut waiting = of_worker.lock().unwrap_or_else(PoisonError::into_inner);
                while waiting.front().is_some_and(|(since, _)| since.elapsed() >= CLOSING_TIME) {
                    over.extend(waiting.pop_front());
                }
            }
            drop(over);
        }
    }
}
