//! What was really served.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// POST requests of all kinds, as the server itself saw them begin and end.
/// `started = finished + aborted + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruthCounters {
    /// Head read.
    pub started: u64,
    /// Response written to its last byte, error responses included.
    pub finished: u64,
    /// The client left before that.
    pub aborted: u64,
    pub in_flight: u64,
    pub responses_2xx: u64,
    pub responses_4xx: u64,
    /// Tokens written to clients.
    pub tokens: u64,
}

/// One consistent set of counters.
#[derive(Debug, Default)]
pub struct Truth(Mutex<TruthCounters>);

impl Truth {
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

/// A request in flight. Dropped without an end, it was aborted.
pub(crate) struct Open<'a> {
    truth: &'a Truth,
    status: Option<u16>,
}

impl Open<'_> {
    /// The response's last byte is about to be written with this status.
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
