use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a replica is avoided after its first failure. Doubled with each further failure.
const MIN_AVOIDED: Duration = Duration::from_secs(5);
const MAX_AVOIDED: Duration = Duration::from_secs(60);

/// Whether one replica of a picker replies. A replica that does not is avoided for a while. After that one request probes
/// it, while the others still avoid it.
#[derive(Debug)]
pub(super) struct ReplicaHealth {
    start: Instant,
    /// Failures since the last reply.
    failures: AtomicU32,
    /// Milliseconds since `start` until which the replica is avoided. Only valid with failures.
    avoided_until_ms: AtomicU64,
}

/// How a request may use a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Normal,
    /// This request finds out whether the replica replies again.
    Probe,
    /// Only if no other replica replies.
    Avoid,
}

impl ReplicaHealth {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), failures: AtomicU32::new(0), avoided_until_ms: AtomicU64::new(0) }
    }

    /// Whether it replied to the last request.
    pub(super) fn is_responsive(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
    }

    /// How the next request may use the replica. At most one request at a time gets [`Admission::Probe`].
    pub(super) fn admit(&self) -> Admission {
        if self.is_responsive() { Admission::Normal } else { self.admit_at(self.now_ms()) }
    }

    fn admit_at(&self, now_ms: u64) -> Admission {
        let until = self.avoided_until_ms.load(Ordering::Relaxed);
        let claimed = now_ms + millis(MIN_AVOIDED);
        let is_claimed = now_ms >= until
            && self
                .avoided_until_ms
                .compare_exchange(until, claimed, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_claimed { Admission::Probe } else { Admission::Avoid }
    }

    /// The replica replied.
    pub(super) fn replied(&self) {
        if !self.is_responsive() {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// The replica could not be reached or did not reply in time. Returns how long it is avoided, or `None` if that was
    /// known from another request.
    pub(super) fn failed(&self) -> Option<Duration> {
        self.failed_at(self.now_ms())
    }

    fn failed_at(&self, now_ms: u64) -> Option<Duration> {
        // Requests that were sent at the same time count as one failure.
        if !self.is_responsive() && now_ms < self.avoided_until_ms.load(Ordering::Relaxed) {
            return None;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let avoided = avoided(failures + 1);
        self.avoided_until_ms.store(now_ms + millis(avoided), Ordering::Relaxed);
        Some(avoided)
    }

    /// The probe failed.
    pub(super) fn probe_failed(&self) -> Option<Duration> {
        self.probe_failed_at(self.now_ms())
    }

    fn probe_failed_at(&self, now_ms: u64) -> Option<Duration> {
        self.avoided_until_ms.store(now_ms, Ordering::Relaxed);
        self.failed_at(now_ms)
    }

    fn now_ms(&self) -> u64 {
        millis(self.start.elapsed())
    }
}

fn avoided(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    (MIN_AVOIDED * 2_u32.pow(doublings)).min(MAX_AVOIDED)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_at_a_time_probes_a_replica_that_is_avoided() {
        let health = ReplicaHealth::new();
        assert_eq!(health.admit(), Admission::Normal);
        let mut now_ms = 1_000;
        for seconds in [5, 10, 20, 40, 60, 60] {
            let avoided =
                if seconds == 5 { health.failed_at(now_ms) } else { health.probe_failed_at(now_ms) };
            assert_eq!(avoided, Some(Duration::from_secs(seconds)));
            assert_eq!(health.failed_at(now_ms + 1), None, "a request sent at the same time");
            assert_eq!(health.admit_at(now_ms + seconds * 1_000 - 1), Admission::Avoid);
            now_ms += seconds * 1_000;
            assert_eq!(health.admit_at(now_ms), Admission::Probe);
            assert_eq!(health.admit_at(now_ms), Admission::Avoid, "another request probes it");
            now_ms += 1_000;
        }
        health.replied();
        assert_eq!((health.admit(), health.failed_at(now_ms)), (Admission::Normal, Some(MIN_AVOIDED)));
    }
}
