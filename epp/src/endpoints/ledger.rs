//! What was picked here for one endpoint, and how much of it others' counts
//! show already.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Grows with every pick of a pool, so that order is age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PickId(pub(crate) u64);

/// A count measured this long after a pick has that pick in it, or the request
/// never came: time for the gateway to hear of the pick, connect and send.
pub(super) const VISIBILITY_GRACE: Duration = Duration::from_millis(250);

/// The open picks of one endpoint. As many entries as requests are open.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: BTreeMap<PickId, Instant>,
    unseen_by_kernel: BTreeSet<PickId>,
    /// Open when the kernel's count began anew: it will never have them.
    before_kernel: BTreeSet<PickId>,
    unseen_by_engine: BTreeSet<PickId>,
}

impl Ledger {
    pub(super) fn add(&mut self, pick: PickId, at: Instant) {
        self.open.insert(pick, at);
        self.unseen_by_kernel.insert(pick);
        self.unseen_by_engine.insert(pick);
    }

    /// Takes over a request that another endpoint turned out to serve; this
    /// one's counts have it already.
    pub(super) fn add_served(&mut self, pick: PickId, at: Instant) {
        self.open.insert(pick, at);
    }

    pub(super) fn remove(&mut self, pick: PickId) -> Option<Instant> {
        self.unseen_by_kernel.remove(&pick);
        self.before_kernel.remove(&pick);
        self.unseen_by_engine.remove(&pick);
        self.open.remove(&pick)
    }

    /// The kernel had counted `arrived` more requests at `measured`: the oldest
    /// picks are the likeliest to be those.
    pub(super) fn kernel_counted(&mut self, arrived: u64, measured: Instant) {
        for _ in 0..arrived {
            match self.unseen_by_kernel.first() {
                Some(oldest) if self.open.get(oldest).is_none_or(|at| *at <= measured) => {
                    self.unseen_by_kernel.pop_first();
                }
                _ => break,
            }
        }
        retire_until(&mut self.unseen_by_kernel, &self.open, measured);
    }

    /// The kernel's count began at zero: what it was known to have, it has not.
    pub(super) fn kernel_began_anew(&mut self) {
        self.before_kernel =
            self.open.keys().copied().filter(|it| !self.unseen_by_kernel.contains(it)).collect();
    }

    pub(super) fn engine_counted(&mut self, measured: Instant) {
        retire_until(&mut self.unseen_by_engine, &self.open, measured);
    }

    pub(super) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// Picks that the kernel's count should have in it.
    pub(super) fn seen_by_kernel(&self) -> u64 {
        self.open().saturating_sub(self.beside_kernel())
    }

    /// Picks to add to the kernel's count.
    pub(super) fn beside_kernel(&self) -> u64 {
        (self.unseen_by_kernel.len() + self.before_kernel.len()) as u64
    }

    /// Picks to add to the engine's count.
    pub(super) fn beside_engine(&self) -> u64 {
        self.unseen_by_engine.len() as u64
    }
}

fn retire_until(unseen: &mut BTreeSet<PickId>, open: &BTreeMap<PickId, Instant>, measured: Instant) {
    while let Some(oldest) = unseen.first() {
        match open.get(oldest) {
            Some(at) if *at + VISIBILITY_GRACE >= measured => break,
            _ => unseen.pop_first(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_pick_counts_until_the_kernel_has_it() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        for id in 0..3 {
            ledger.add(PickId(id), start);
        }
        assert_eq!(ledger.beside_kernel(), 3);
        ledger.kernel_counted(1, start + MS);
        assert_eq!((ledger.beside_kernel(), ledger.open()), (2, 3));
        ledger.kernel_counted(0, start + VISIBILITY_GRACE);
        assert_eq!(ledger.beside_kernel(), 2);
        ledger.kernel_counted(0, start + VISIBILITY_GRACE + MS);
        assert_eq!((ledger.beside_kernel(), ledger.open()), (0, 3));
    }

    #[test]
    fn requests_counted_before_a_pick_do_not_retire_it() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start + 10 * MS);
        ledger.kernel_counted(5, start + 9 * MS);
        assert_eq!(ledger.beside_kernel(), 1);
        ledger.kernel_counted(5, start + 10 * MS);
        assert_eq!(ledger.beside_kernel(), 0);
    }

    #[test]
    fn an_ended_pick_is_in_no_count() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start);
        assert_eq!(ledger.remove(PickId(0)), Some(start));
        assert_eq!((ledger.open(), ledger.beside_kernel(), ledger.beside_engine()), (0, 0, 0));
        assert_eq!(ledger.remove(PickId(0)), None);
    }

    #[test]
    fn a_count_that_begins_anew_lacks_what_it_had_until_that_ends() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.add(PickId(0), start);
        ledger.kernel_counted(1, start + MS);
        ledger.add(PickId(1), start + 2 * MS);
        ledger.kernel_began_anew();
        assert_eq!(ledger.beside_kernel(), 2);
        ledger.kernel_counted(1, start + 3 * MS);
        assert_eq!(ledger.beside_kernel(), 1, "the new one was counted, the old one cannot be");
        ledger.kernel_counted(0, start + 2 * VISIBILITY_GRACE);
        assert_eq!(ledger.beside_kernel(), 1);
        ledger.remove(PickId(0));
        assert_eq!(ledger.beside_kernel(), 0);
    }
}
