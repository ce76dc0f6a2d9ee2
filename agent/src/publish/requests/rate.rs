//! The limit of requests per second of one reader.

const SECOND_NS: u64 = 1_000_000_000;

/// Admits a number of requests per second, on average, and at most this number at once. Its clock are the times of the
/// requests.
#[derive(Debug)]
pub(super) struct RateLimit {
    interval_ns: u64,
    /// When the requests so far would end if each had kept its interval.
    paced_until_ns: u64,
}

impl RateLimit {
    pub(super) fn per_second(number: u32) -> Self {
        Self { interval_ns: SECOND_NS / u64::from(number.max(1)), paced_until_ns: 0 }
    }

    pub(super) fn admits(&mut self, at_ns: u64) -> bool {
        let paced_until_ns = self.paced_until_ns.max(at_ns);
        if paced_until_ns - at_ns > SECOND_NS - self.interval_ns {
            return false;
        }
        self.paced_until_ns = paced_until_ns + self.interval_ns;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_a_burst_and_then_the_average() {
        let mut limit = RateLimit::per_second(5);
        let mut admitted = |at_ms: u64| (0..100).filter(|_| limit.admits(at_ms * 1_000_000)).count();
        assert_eq!([admitted(10_000), admitted(10_100), admitted(10_200)], [5, 0, 1]);
        assert_eq!(admitted(10_150), 0, "the clock of another CPU is behind");
        assert_eq!([admitted(10_600), admitted(20_000)], [2, 5]);
        let mut one = RateLimit::per_second(1);
        assert_eq!([one.admits(0), one.admits(999_999_999), one.admits(SECOND_NS)], [true, false, true]);
    }
}
