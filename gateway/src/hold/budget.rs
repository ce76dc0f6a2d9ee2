use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::gauge::Gauge;

use super::Error;

/// A quarter of the budget is kept for bodies up to this size, so that large bodies cannot take it from small ones.
const SMALL_BODY_BYTES: u64 = 64 << 10;

/// Limits for held request bodies: of one body and of all bodies together.
#[derive(Debug)]
pub(crate) struct HoldBudget {
    request_bytes: u64,
    total_bytes: u64,
    replay_bytes: u64,
    held_bytes: AtomicU64,
    gauge: Gauge,
}

impl HoldBudget {
    /// `replay_bytes`: maximum size of a body that is kept for retries while it is streamed. `gauge`: the bytes held.
    pub(crate) fn new(request_bytes: u64, total_bytes: u64, replay_bytes: u64, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { request_bytes, total_bytes, replay_bytes, held_bytes: AtomicU64::new(0), gauge })
    }

    /// An empty hold for one request.
    pub(crate) fn open(self: &Arc<Self>) -> Hold {
        Hold { budget: self.clone(), bytes: 0 }
    }
}

/// Bytes that one request holds. They are released when this is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    budget: Arc<HoldBudget>,
    bytes: u64,
}

impl Hold {
    /// Takes `more` bytes. Fails if that exceeds one of the two limits.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Error> {
        let more = more as u64;
        let limit_bytes = self.budget.request_bytes;
        if self.bytes + more > limit_bytes {
            return Err(Error::TooLarge { limit_bytes });
        }
        let taken = self.budget.held_bytes.fetch_add(more, Ordering::Relaxed) + more;
        let is_small = self.bytes + more <= SMALL_BODY_BYTES;
        let limit = if is_small { self.budget.total_bytes } else { self.budget.total_bytes / 4 * 3 };
        if taken > limit {
            self.budget.held_bytes.fetch_sub(more, Ordering::Relaxed);
            return Err(Error::BudgetExhausted);
        }
        self.bytes += more;
        self.budget.gauge.inc_by(more as i64);
        Ok(())
    }

    /// Whether `more` bytes fit, the hold stays within `limit`, and no other body is in need of the budget.
    pub(super) fn has_room(&self, limit: u64, more: u64) -> bool {
        let HoldBudget { request_bytes, total_bytes, .. } = *self.budget;
        let held = self.budget.held_bytes.load(Ordering::Relaxed);
        self.bytes < limit && self.bytes + more <= request_bytes && held + more <= total_bytes / 2
    }

    /// Releases `less` bytes.
    pub(crate) fn shrink(&mut self, less: usize) {
        let less = (less as u64).min(self.bytes);
        self.bytes -= less;
        self.budget.held_bytes.fetch_sub(less, Ordering::Relaxed);
        self.budget.gauge.dec_by(less as i64);
    }

    /// An empty hold of the same budget.
    pub(super) fn another(&self) -> Self {
        self.budget.open()
    }

    /// Takes over the bytes of `other`.
    pub(super) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn replay_bytes(&self) -> u64 {
        self.budget.replay_bytes
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.gauge.dec_by(self.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let budget = HoldBudget::new(1 << 20, 4 << 20, 0, Gauge::default());
        let mut large: Vec<Hold> = (0..3).map(|_| budget.open()).collect();
        large.iter_mut().for_each(|hold| hold.grow(1 << 20).unwrap());
        assert!(matches!(budget.open().grow(SMALL_BODY_BYTES as usize + 1), Err(Error::BudgetExhausted)));
        let small: Vec<Hold> = (0..16)
            .map(|_| {
                let mut hold = budget.open();
                hold.grow(SMALL_BODY_BYTES as usize).unwrap();
                hold
            })
            .collect();
        assert_eq!(budget.gauge.get(), 4 << 20);
        assert!(matches!(budget.open().grow(1), Err(Error::BudgetExhausted)));
        drop((large, small));
        assert_eq!(budget.gauge.get(), 0);
    }

    #[test]
    fn enforces_both_limits_and_releases_all_bytes() {
        let budget = HoldBudget::new(10, 15, 5, Gauge::default());
        let mut first = budget.open();
        first.grow(10).unwrap();
        assert!(matches!(first.grow(1), Err(Error::TooLarge { limit_bytes: 10 })));
        let mut second = budget.open();
        second.grow(5).unwrap();
        assert!(matches!(second.grow(1), Err(Error::BudgetExhausted)));
        assert_eq!(budget.gauge.get(), 15);
        drop(first);
        second.grow(5).unwrap();
        second.shrink(7);
        assert_eq!(budget.gauge.get(), 3);
        drop(second);
        assert_eq!((budget.gauge.get(), budget.held_bytes.load(Ordering::Relaxed)), (0, 0));
    }
}
