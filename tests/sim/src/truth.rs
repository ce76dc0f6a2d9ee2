//! Exact counters of served requests.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// Counts of all POST requests.
/// `started = finished + aborted + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruthCounters {
    /// The request head was read.
    pub started: u64,
    /// The response was written completely. Includes error responses.
    pub finished: u64,
    /// The client disconnected before the end of the response.
    pub aborted: u64,
    /// Started and not finished.
    pub in_flight: u64,
    /// Finished with a 2xx status.
    pub responses_2xx: u64,
    /// Finished with a 4xx status.
    pub responses_4xx: u64,
    /// Tokens written to clients.
    pub tokens: u64,
}

/// The counters behind a lock: each read is consistent.
#[derive(Debug, Default)]
pub struct Truth(Mutex<TruthCounters>);

impl Truth {
    /// Reads all counters.
    pub fn read(&self) -> TruthCounters {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut TruthCounters)) {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    pub(crate) fn token(&self) {
        self.change(|counters| counters.tokens += 1);
    }

    pub(crate) fn begin(&self) -> Open<'_> {
        self.change(|counters| {
            counters.started += 1;
            counters.in_flight += 1;
        });
        Open { truth: self, status: None }
    }
}

/// A request in flight. Drop without [`Open::finish`] counts it as aborted.
pub(crate) struct Open<'a> {
    truth: &'a Truth,
    status: Option<u16>,
}

impl Open<'_> {
    /// Sets the status. Call it immediately before or after the last byte of the response is written.
    pub(crate) fn finish(mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.truth.change(|counters| {
            counters.in_flight -= 1;
            match self.status {
                Some(status) => {
                    counters.finished += 1;
                    counters.responses_2xx += u64::from((200..300).contains(&status));
                    counters.responses_4xx += u64::from((400..500).contains(&status));
                }
                None => counters.aborted += 1,
            }
        });
    }
}
