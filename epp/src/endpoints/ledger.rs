//! Own open picks of one endpoint, and which of them the kernel's and the engine's counts contain already.

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

/// The open picks of one endpoint. Bounded by the requests in flight.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<PickId, Instant>,
    not_yet_in_kernel: BTreeSet<PickId>,
    /// Open when the kernel's count restarted at zero. The count will never contain them.
    lost_by_kernel: BTreeSet<PickId>,
    not_yet_in_engine: BTreeSet<PickId>,
}

impl Ledger {
    pub(super) fn add(&mut self, pick: PickId, at: Instant) {
        self.open.insert(pick, at);
        self.not_yet_in_kernel.insert(pick);
        self.not_yet_in_engine.insert(pick);
    }

    /// Adds a pick of another endpoint whose request this endpoint served. The counts contain it already.
    pub(super) fn add_served(&mut self, pick: PickId, at: Instant) {
        self.open.insert(pick, at);
    }

    pub(super) fn remove(&mut self, pick: PickId) -> Option<Instant> {
        self.not_yet_in_kernel.remove(&pick);
        self.lost_by_kernel.remove(&pick);
        self.not_yet_in_engine.remove(&pick);
        self.open.remove(&pick)
    }

    /// The kernel counted `arrived` more requests until `measured`. The oldest picks are assumed to be those.
    pub(super) fn kernel_counted(&mut self, arrived: u64, measured: Instant) {
        for _ in 0..arrived {
            match self.not_yet_in_kernel.first() {
                Some(oldest) if self.open.get(oldest).is_none_or(|at| *at <= measured) => {
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

    /// The engine's gauges were read at `measured`.
    pub(super) fn engine_counted(&mut self, measured: Instant) {
        retire_until(&mut self.not_yet_in_engine, &self.open, measured);
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

    /// Picks that the engine's gauges do not contain.
    pub(super) fn not_in_engine(&self) -> u64 {
        self.not_yet_in_engine.len() as u64
    }
}

/// Removes the picks that a count measured at `measured` contains (see [`VISIBILITY_GRACE`]).
fn retire_until(not_yet_counted: &mut BTreeSet<PickId>, open: &BTreeMap<PickId, Instant>, measured: Instant) {
    while let Some(oldest) = not_yet_counted.first() {
        match open.get(oldest) {
            Some(at) if *at + VISIBILITY_GRACE >= measured => break,
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
            ledger.add(PickId(id), start);
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
        ledger.add(PickId(0), start + 10 * MS);
        ledger.kernel_counted(5, start + 9 * MS);
        assert_eq!(ledger.not_in_kernel(), 1);
        ledger.kernel_counted(5, start + 10 * MS);
        assert_eq!(ledger.not_in_kernel(), 0);
    }

    #[test]
    fn removes_an_ended_pick_from_all_counts() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start);
        assert_eq!(ledger.remove(PickId(0)), Some(start));
        assert_eq!((ledger.open(), ledger.not_in_kernel(), ledger.not_in_engine()), (0, 0, 0));
        assert_eq!(ledger.remove(PickId(0)), None);
    }

    #[test]
    fn adds_earlier_picks_to_a_restarted_count_until_they_end() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start);
        ledger.kernel_counted(1, start + MS);
        ledger.add(PickId(1), start + 2 * MS);
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
