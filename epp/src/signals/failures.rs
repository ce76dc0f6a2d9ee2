//! Failed requests of one endpoint, and how long it is avoided.

use std::time::{Duration, Instant};

/// Failures in a row after which an endpoint is avoided.
const TOLERATED: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Avoids an endpoint whose requests fail. After each pause one request probes it.
///
/// An endpoint that answers errors is quick, and would otherwise draw the traffic of the pool.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    in_a_row: u32,
    until: Option<Instant>,
}

impl Failures {
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.until = self.pause().map(|pause| now + pause);
    }

    /// A request is sent. If it is a probe, no other request follows until its result or one more pause.
    pub(crate) fn picked(&mut self, now: Instant) {
        self.until = self.pause().map(|pause| now + pause);
    }

    /// The endpoint is avoided until then.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    fn pause(&self) -> Option<Duration> {
        let over = self.in_a_row.checked_sub(TOLERATED)?;
        Some((FIRST_PAUSE * 2_u32.saturating_pow(over.min(16))).min(MAX_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_avoided_from_the_second_failure_with_growing_pauses() {
        let mut failures = Failures::default();
        let now = Instant::now();
        failures.failed(now);
        assert_eq!(failures.until(), None);
        let pauses: Vec<u64> = (0..7)
            .map(|_| {
                failures.failed(now);
                failures.until().unwrap().duration_since(now).as_millis() as u64
            })
            .collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        failures.picked(now + MAX_PAUSE);
        assert_eq!(failures.until(), Some(now + 2 * MAX_PAUSE), "one probe per pause");
        failures.succeeded();
        assert_eq!(failures.until(), None);
    }
}
