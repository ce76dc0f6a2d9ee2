//! Own open picks of one endpoint, and which of them the kernel's count contains already.

use std::{
    collections::VecDeque,
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
    id: PickId,
    at: Instant,
    work: Work,
    kernel: InKernel,
    /// Without a first byte.
    is_waiting: bool,
}

/// Whether the kernel's count contains a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InKernel {
    NotYet,
    Yes,
    /// The count restarted at zero when the pick was open. It will never contain it.
    Lost,
}

/// The open picks of one endpoint. Bounded by the requests in flight.
///
/// Sorted by number, which is almost always the order in which they come, so that nothing is allocated per pick.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: VecDeque<OpenPick>,
    not_yet_in_kernel: u64,
    lost_by_kernel: u64,
    waiting: u64,
    /// No pick before these numbers is not yet in the kernel's count, or waits.
    first_not_yet: Option<PickId>,
    first_waiting: Option<PickId>,
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
    pub(super) fn add(&mut self, id: PickId, at: Instant, work: Work) {
        self.insert(OpenPick { id, at, work, kernel: InKernel::NotYet, is_waiting: true });
        self.not_yet_in_kernel += 1;
        self.waiting += 1;
        self.first_not_yet = Some(self.first_not_yet.map_or(id, |first| first.min(id)));
        self.first_waiting = Some(self.first_waiting.map_or(id, |first| first.min(id)));
        self.waiting_body_bytes += work.body_bytes;
        self.waiting_uncached_bytes += work.uncached_bytes;
    }

    /// Adds a pick of another endpoint whose request this endpoint served. The counts contain it already.
    pub(super) fn add_served(&mut self, id: PickId, at: Instant, work: Work) {
        self.insert(OpenPick { id, at, work, kernel: InKernel::Yes, is_waiting: false });
    }

    fn insert(&mut self, pick: OpenPick) {
        self.prompt_bytes += pick.work.prompt_bytes();
        self.open.insert(self.from(Some(pick.id)), pick);
    }

    pub(super) fn remove(&mut self, id: PickId) -> Option<(Instant, Work)> {
        self.stop_waiting(id);
        let pick = self.open.remove(self.position(id)?)?;
        match pick.kernel {
            InKernel::NotYet => self.not_yet_in_kernel -= 1,
            InKernel::Lost => self.lost_by_kernel -= 1,
            InKernel::Yes => {}
        }
        self.prompt_bytes -= pick.work.prompt_bytes();
        Some((pick.at, pick.work))
    }

    /// The first byte of the response is there. Returns the work if the request was waiting for it.
    pub(super) fn stop_waiting(&mut self, id: PickId) -> Option<Work> {
        let position = self.position(id)?;
        let pick = &mut self.open[position];
        if !std::mem::replace(&mut pick.is_waiting, false) {
            return None;
        }
        let work = pick.work;
        self.waiting -= 1;
        self.waiting_body_bytes -= work.body_bytes;
        self.waiting_uncached_bytes -= work.uncached_bytes;
        if self.first_waiting == Some(id) {
            self.first_waiting =
                self.open.range(position + 1..).find(|pick| pick.is_waiting).map(|pick| pick.id);
        }
        Some(work)
    }

    /// The kernel counted `arrived` more requests until `measured`. The oldest picks are assumed to be those, and every one
    /// that is older than [`VISIBILITY_GRACE`] is in the count.
    pub(super) fn kernel_counted(&mut self, arrived: u64, measured: Instant) {
        let mut arrived = arrived;
        let start = self.from(self.first_not_yet);
        self.first_not_yet = None;
        for pick in self.open.range_mut(start..).filter(|pick| pick.kernel == InKernel::NotYet) {
            let has_arrived = arrived > 0 && pick.at <= measured;
            if !has_arrived && pick.at + VISIBILITY_GRACE >= measured {
                self.first_not_yet = Some(pick.id);
                break;
            }
            arrived = arrived.saturating_sub(1);
            pick.kernel = InKernel::Yes;
            self.not_yet_in_kernel -= 1;
        }
    }

    /// The kernel's count restarted at zero, without the picks that it contained before.
    pub(super) fn kernel_restarted(&mut self) {
        for pick in self.open.iter_mut().filter(|pick| pick.kernel == InKernel::Yes) {
            pick.kernel = InKernel::Lost;
            self.lost_by_kernel += 1;
        }
    }

    /// The position of the first pick that is not before `id`.
    fn from(&self, id: Option<PickId>) -> usize {
        match (id, self.open.back()) {
            (Some(id), Some(last)) if id <= last.id => self.open.partition_point(|pick| pick.id < id),
            _ => self.open.len(),
        }
    }

    fn position(&self, id: PickId) -> Option<usize> {
        self.open.binary_search_by_key(&id, |pick| pick.id).ok()
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
        self.not_yet_in_kernel + self.lost_by_kernel
    }

    /// Requests without a first byte.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The request that has waited longest for its first byte.
    pub(super) fn oldest_waiting(&self) -> Option<(PickId, Instant, Work)> {
        let pick = &self.open[self.position(self.first_waiting?)?];
        Some((pick.id, pick.at, pick.work))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// The same rules over a list that is searched for everything.
    #[derive(Default)]
    struct Model(Vec<OpenPick>);

    impl Model {
        fn kernel_counted(&mut self, arrived: u64, measured: Instant) {
            for _ in 0..arrived {
                let first = self.0.iter_mut().find(|pick| pick.kernel == InKernel::NotYet);
                match first {
                    Some(pick) if pick.at <= measured => pick.kernel = InKernel::Yes,
                    _ => break,
                }
            }
            for pick in &mut self.0 {
                if pick.kernel == InKernel::NotYet && pick.at + VISIBILITY_GRACE < measured {
                    pick.kernel = InKernel::Yes;
                }
            }
        }

        fn count(&self, of: impl Fn(&OpenPick) -> bool) -> u64 {
            self.0.iter().filter(|pick| of(pick)).count() as u64
        }
    }

    proptest! {
        #[test]
        fn equals_a_plain_list(steps in prop::collection::vec((0u8..7, 0u64..40, 0u64..400), 1..120)) {
            let (mut ledger, mut model) = (Ledger::default(), Model::default());
            let mut now = Instant::now();
            for (next, (step, which, number)) in (0..).zip(steps) {
                now += Duration::from_millis(number / 4);
                let work = Work { body_bytes: number, uncached_bytes: number / 2, ..Work::default() };
                // Numbers with gaps, and some that come late.
                let (new, old) = (PickId(next * 2), PickId((next * 2).saturating_sub(which) | 1));
                let picked = model.0.get(which as usize % model.0.len().max(1)).map_or(PickId(which), |pick| pick.id);
                match step {
                    0 | 1 => {
                        ledger.add(new, now, work);
                        model.0.push(OpenPick { id: new, at: now, work, kernel: InKernel::NotYet, is_waiting: true });
                    }
                    2 if model.0.iter().all(|pick| pick.id != old) => {
                        ledger.add_served(old, now, work);
                        model.0.push(OpenPick { id: old, at: now, work, kernel: InKernel::Yes, is_waiting: false });
                    }
                    3 => {
                        let removed = ledger.remove(picked);
                        let known = model.0.iter().position(|pick| pick.id == picked).map(|at| model.0.remove(at));
                        prop_assert_eq!(removed, known.map(|pick| (pick.at, pick.work)));
                    }
                    4 => {
                        let stopped = ledger.stop_waiting(picked);
                        let known = model.0.iter_mut().find(|pick| pick.id == picked && pick.is_waiting);
                        prop_assert_eq!(stopped, known.map(|pick| {
                            pick.is_waiting = false;
                            pick.work
                        }));
                    }
                    5 => {
                        ledger.kernel_counted(which % 4, now);
                        model.kernel_counted(which % 4, now);
                    }
                    _ => {
                        ledger.kernel_restarted();
                        for pick in model.0.iter_mut().filter(|pick| pick.kernel == InKernel::Yes) {
                            pick.kernel = InKernel::Lost;
                        }
                    }
                }
                model.0.sort_by_key(|pick| pick.id);
                prop_assert_eq!(ledger.open(), model.count(|_| true));
                prop_assert_eq!(ledger.not_in_kernel(), model.count(|pick| pick.kernel != InKernel::Yes));
                prop_assert_eq!(ledger.waiting(), model.count(|pick| pick.is_waiting));
                let oldest = model.0.iter().find(|pick| pick.is_waiting);
                prop_assert_eq!(ledger.oldest_waiting(), oldest.map(|pick| (pick.id, pick.at, pick.work)));
                let sum = |bytes: fn(&OpenPick) -> u64| model.0.iter().map(bytes).sum::<u64>();
                prop_assert_eq!(ledger.prompt_bytes(), sum(|pick| pick.work.prompt_bytes()));
                let waiting = sum(|pick| if pick.is_waiting { pick.work.uncached_bytes } else { 0 });
                prop_assert_eq!(ledger.waiting_uncached_bytes(), waiting);
            }
        }
    }
}
