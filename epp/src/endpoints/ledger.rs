//! Own open picks of one endpoint, and which of them the kernel's count contains already.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Increases with every pick of a pool, so the lowest is the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PickId(pub(crate) u64);

/// Time for the gateway to receive the decision, connect and send. A count measured later than that after a pick contains
/// the pick, or its request never arrived.
pub(super) const VISIBILITY_GRACE: Duration = Duration::from_millis(250);

/// What a request costs the engine, as far as the picker knows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// Bytes of the request's body.
    pub(crate) body_bytes: u64,
    /// Bytes of the prompt that the engine is believed to have in its cache.
    pub(crate) cached_bytes: u64,
    /// Other bytes of the prompt.
    pub(crate) uncached_bytes: u64,
    /// The first byte of the response follows the prefill: the response is a stream, and its first byte is reported.
    pub(crate) reports_first_byte: bool,
}

/// An own pick whose request has not ended.
#[derive(Clone, Copy, Debug)]
struct OpenPick {
    at: Instant,
    work: Work,
}

/// The open picks of one endpoint. Bounded by the requests in flight.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<PickId, OpenPick>,
    not_yet_in_kernel: BTreeSet<PickId>,
    /// Open when the kernel's count restarted at zero. The count will never contain them.
    lost_by_kernel: BTreeSet<PickId>,
    /// Without a first byte.
    waiting: BTreeSet<PickId>,
    waiting_body_bytes: u64,
    waiting_uncached_bytes: u64,
    /// Of all open picks.
    prompt_bytes: u64,
}

impl Work {
    fn prompt_bytes(&self) -> u64 {
        self.cached_bytes + self.uncached_bytes
    }
}

impl Ledger {
    pub(super) fn add(&mut self, pick: PickId, at: Instant, work: Work) {
        self.prompt_bytes += work.prompt_bytes();
        self.open.insert(pick, OpenPick { at, work });
        self.not_yet_in_kernel.insert(pick);
        self.waiting.insert(pick);
        self.waiting_body_bytes += work.body_bytes;
        self.waiting_uncached_bytes += work.uncached_bytes;
    }

    /// Adds a pick of another endpoint whose request this endpoint served. The counts contain it already.
    pub(super) fn add_served(&mut self, pick: PickId, at: Instant, work: Work) {
        self.prompt_bytes += work.prompt_bytes();
        self.open.insert(pick, OpenPick { at, work });
    }

    pub(super) fn remove(&mut self, pick: PickId) -> Option<(Instant, Work)> {
        self.not_yet_in_kernel.remove(&pick);
        self.lost_by_kernel.remove(&pick);
        self.stop_waiting(pick);
        let OpenPick { at, work } = self.open.remove(&pick)?;
        self.prompt_bytes -= work.prompt_bytes();
        Some((at, work))
    }

    /// The first byte of the response is there. Returns the work if the request was waiting for it.
    pub(super) fn stop_waiting(&mut self, pick: PickId) -> Option<Work> {
        if !self.waiting.remove(&pick) {
            return None;
        }
        let work = self.open.get(&pick)?.work;
        self.waiting_body_bytes -= work.body_bytes;
        self.waiting_uncached_bytes -= work.uncached_bytes;
        Some(work)
    }

    /// The kernel counted `arrived` more requests until `measured`. The oldest picks are assumed to be those.
    pub(super) fn kernel_counted(&mut self, arrived: u64, measured: Instant) {
        for _ in 0..arrived {
            match self.not_yet_in_kernel.first() {
                Some(oldest) if self.open.get(oldest).is_none_or(|pick| pick.at <= measured) => {
                    self.not_yet_in_kernel.pop_first();
                }
                _ => break,
            }
        }
        retire_until(&mut self.not_yet_in_kernel, &self.open, measured);
    }

    /// The kernel's count restarted at zero, without the picks that it contained before.
    pub(super) fn kernel_restarted(&mut self) {
        self.lost_by_kernel =
            self.open.keys().copied().filter(|it| !self.not_yet_in_kernel.contains(it)).collect();
    }

    pub(super) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// Picks that the kernel's count contains.
    pub(super) fn in_kernel(&self) -> u64 {
        self.open().saturating_sub(self.not_in_kernel())
    }

    /// Picks that the kernel's count does not contain.
    pub(super) fn not_in_kernel(&self) -> u64 {
        (self.not_yet_in_kernel.len() + self.lost_by_kernel.len()) as u64
    }

    /// Requests without a first byte.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The request that has waited longest for its first byte.
    pub(super) fn oldest_waiting(&self) -> Option<(PickId, Instant, Work)> {
        let oldest = self.waiting.first()?;
        self.open.get(oldest).map(|pick| (*oldest, pick.at, pick.work))
    }

    /// Bytes of the bodies of requests without a first byte.
    pub(super) fn waiting_body_bytes(&self) -> u64 {
        self.waiting_body_bytes
    }

    /// Bytes of the prompts of all open picks.
    pub(super) fn prompt_bytes(&self) -> u64 {
        self.prompt_bytes
    }

    /// Uncached bytes of the prompts of requests without a first byte.
    pub(super) fn waiting_uncached_bytes(&self) -> u64 {
        self.waiting_uncached_bytes
    }
}

/// Removes the picks that a count measured at `measured` contains (see [`VISIBILITY_GRACE`]).
fn retire_until(
    not_yet_counted: &mut BTreeSet<PickId>,
    open: &BTreeMap<PickId, OpenPick>,
    measured: Instant,
) {
    while let Some(oldest) = not_yet_counted.first() {
        match open.get(oldest) {
            Some(pick) if pick.at + VISIBILITY_GRACE >= measured => break,
            _ => not_yet_counted.pop_first(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn adds_a_pick_until_the_kernel_count_contains_it() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        for id in 0..3 {
            ledger.add(PickId(id), start, Work::default());
        }
        assert_eq!(ledger.not_in_kernel(), 3);
        ledger.kernel_counted(1, start + MS);
        assert_eq!((ledger.not_in_kernel(), ledger.open()), (2, 3));
        ledger.kernel_counted(0, start + VISIBILITY_GRACE);
        assert_eq!(ledger.not_in_kernel(), 2);
        ledger.kernel_counted(0, start + VISIBILITY_GRACE + MS);
        assert_eq!((ledger.not_in_kernel(), ledger.open()), (0, 3));
    }

    #[test]
    fn requests_counted_before_a_pick_do_not_retire_it() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start + 10 * MS, Work::default());
        ledger.kernel_counted(5, start + 9 * MS);
        assert_eq!(ledger.not_in_kernel(), 1);
        ledger.kernel_counted(5, start + 10 * MS);
        assert_eq!(ledger.not_in_kernel(), 0);
    }

    #[test]
    fn removes_an_ended_pick_from_all_counts() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start, Work::default());
        assert_eq!(ledger.remove(PickId(0)), Some((start, Work::default())));
        assert_eq!((ledger.open(), ledger.not_in_kernel(), ledger.waiting()), (0, 0, 0));
        assert_eq!(ledger.remove(PickId(0)), None);
    }

    #[test]
    fn work_waits_until_the_first_byte_or_the_end() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        let work = Work { body_bytes: 100, uncached_bytes: 60, ..Work::default() };
        for id in 0..3 {
            ledger.add(PickId(id), start, work);
        }
        assert_eq!((ledger.waiting_body_bytes(), ledger.waiting_uncached_bytes()), (300, 180));
        assert_eq!(ledger.stop_waiting(PickId(0)), Some(work));
        assert_eq!(ledger.stop_waiting(PickId(0)), None, "only once");
        assert_eq!(ledger.oldest_waiting().map(|(id, ..)| id), Some(PickId(1)));
        ledger.remove(PickId(1));
        assert_eq!((ledger.waiting(), ledger.waiting_uncached_bytes()), (1, 60));
        ledger.remove(PickId(0));
        ledger.remove(PickId(2));
        assert_eq!((ledger.waiting(), ledger.waiting_body_bytes(), ledger.open()), (0, 0, 0));
    }

    #[test]
    fn adds_earlier_picks_to_a_restarted_count_until_they_end() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start, Work::default());
        ledger.kernel_counted(1, start + MS);
        ledger.add(PickId(1), start + 2 * MS, Work::default());
        ledger.kernel_restarted();
        assert_eq!(ledger.not_in_kernel(), 2);
        ledger.kernel_counted(1, start + 3 * MS);
        assert_eq!(ledger.not_in_kernel(), 1, "only the new pick can be in the count");
        ledger.kernel_counted(0, start + 2 * VISIBILITY_GRACE);
        assert_eq!(ledger.not_in_kernel(), 1);
        ledger.remove(PickId(0));
        assert_eq!(ledger.not_in_kernel(), 0);
    }
}
