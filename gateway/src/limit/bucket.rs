//! Token bucket of one limit.

use std::time::{Duration, Instant};

use forebay_routing::RateLimit;

/// Waits are not longer than this. A debt may be paid off later than anyone waits.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub(super) limit: RateLimit,
    /// At most the capacity of the limit. Negative: a debt.
    level: f64,
    at: Instant,
    /// Requests that were admitted before have taken nothing from it.
    created: Instant,
}

impl Bucket {
    pub(super) fn full(limit: RateLimit, now: Instant) -> Self {
        Self { limit, level: limit.capacity() as f64, at: now, created: now }
    }

    /// The bucket of a changed limit. What was used of the old one stays used.
    pub(super) fn changed(mut self, limit: RateLimit, now: Instant) -> Self {
        self.refill(now);
        let used = self.limit.capacity() as f64 - self.level;
        Self { limit, level: limit.capacity() as f64 - used, ..self }
    }

    pub(super) fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.add(elapsed.as_secs_f64() * self.limit.per_second());
    }

    fn add(&mut self, amount: f64) {
        self.level = (self.level + amount).min(self.limit.capacity() as f64);
    }

    /// Fails with the time after which `amount` can be taken, if nothing else is taken before.
    pub(super) fn check(&mut self, amount: u64, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        let needed = amount.min(self.limit.capacity()) as f64;
        if self.level >= needed { Ok(()) } else { Err(self.time_to_fill(needed)) }
    }

    pub(super) fn take(&mut self, amount: u64) {
        self.level -= amount as f64;
    }

    /// Whether a request that was admitted at this time has taken from it.
    pub(super) fn has_counted(&self, admitted: Instant) -> bool {
        self.created <= admitted
    }

    /// `reserved` was taken, and `used` was needed.
    pub(super) fn settle(&mut self, reserved: u64, used: u64, now: Instant) {
        self.refill(now);
        self.add(reserved as f64 - used as f64);
    }

    /// What is left. 0 if there is a debt.
    pub(super) fn remaining(&self) -> u64 {
        self.level.max(0.0) as u64
    }

    /// Time until the bucket is full, if nothing is taken.
    pub(super) fn reset_after(&self) -> Duration {
        self.time_to_fill(self.limit.capacity() as f64)
    }

    fn time_to_fill(&self, level: f64) -> Duration {
        let seconds = ((level - self.level) / self.limit.per_second()).max(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(MAX_WAIT).min(MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use forebay_routing::{LimitUnit, Measure};
    use proptest::prelude::*;

    use super::*;

    fn limit(amount: u32, burst: u32) -> RateLimit {
        RateLimit { measure: Measure::Tokens, amount, burst, unit: LimitUnit::Minute }
    }

    #[test]
    fn it_fills_continuously_up_to_its_capacity() {
        let start = Instant::now();
        let mut bucket = Bucket::full(limit(60, 30), start);
        assert_eq!(bucket.check(90, start), Ok(()));
        bucket.take(90);
        assert_eq!(bucket.check(1, start), Err(Duration::from_secs(1)));
        let later = start + Duration::from_secs(10);
        assert_eq!(bucket.check(10, later), Ok(()));
        assert_eq!(bucket.check(11, later), Err(Duration::from_secs(1)));
        assert_eq!((bucket.remaining(), bucket.reset_after()), (10, Duration::from_secs(80)));
        assert_eq!(bucket.check(90, start + Duration::from_secs(3600)), Ok(()));
        assert_eq!(bucket.remaining(), 90);
    }

    #[test]
    fn more_than_the_capacity_leaves_a_debt() {
        let start = Instant::now();
        let mut bucket = Bucket::full(limit(60, 0), start);
        assert_eq!(bucket.check(600, start), Ok(()));
        bucket.take(600);
        assert_eq!((bucket.remaining(), bucket.check(1, start)), (0, Err(Duration::from_secs(541))));
        bucket.settle(600, 60, start);
        assert_eq!(bucket.check(1, start), Err(Duration::from_secs(1)));
    }

    #[test]
    fn a_changed_limit_keeps_what_was_used() {
        let start = Instant::now();
        let mut bucket = Bucket::full(limit(60, 0), start);
        bucket.take(50);
        let mut changed = bucket.changed(limit(100, 0), start);
        assert_eq!((changed.remaining(), changed.check(50, start)), (50, Ok(())));
        assert_eq!(bucket.changed(limit(40, 0), start).remaining(), 0);
    }

    #[test]
    fn a_clock_that_goes_back_fills_nothing() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut bucket = Bucket::full(limit(60, 0), start);
        bucket.take(60);
        assert!(bucket.check(1, start - Duration::from_secs(30)).is_err());
        assert!(bucket.check(1, start).is_err());
        assert!(bucket.check(1, start + Duration::from_secs(1)).is_ok());
    }

    proptest! {
        /// Whatever is estimated: what requests use in a time is at most the capacity, what is filled in this time, and
        /// what single requests use above their estimates.
        #[test]
        fn overrun_is_bounded_by_estimates(
            requests in prop::collection::vec((0_u64..50, 0_u64..80, 0_u64..3000, 0_usize..4), 1..200),
        ) {
            let limit = limit(60, 10);
            let start = Instant::now();
            let (mut now, mut bucket) = (start, Bucket::full(limit, start));
            let (mut used, mut above, mut in_flight) = (0, 0, Vec::new());
            for (estimate, actual, wait_ms, ending) in requests {
                now += Duration::from_millis(wait_ms);
                if bucket.check(estimate, now).is_ok() {
                    bucket.take(estimate);
                    in_flight.push((estimate, actual));
                    used += actual;
                    above += actual.saturating_sub(estimate);
                }
                for (estimate, actual) in in_flight.drain(..ending.min(in_flight.len())) {
                    bucket.settle(estimate, actual, now);
                }
                let filled = now.duration_since(start).as_secs_f64() * limit.per_second();
                prop_assert!(used as f64 <= limit.capacity() as f64 + filled + above as f64 + 1e-6);
            }
        }
    }
}
