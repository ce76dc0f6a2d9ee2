//! The state of limits, which survives changes of the routing table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use forebay_resources::ObjectKey;
use forebay_routing::{LimitSet, PolicyLimits, RateLimit};

use super::bucket::Bucket;
use super::estimate::Estimates;
use super::standing::Standing;

/// State of the limits of one policy.
#[derive(Debug)]
pub(crate) struct PolicyState {
    pub(super) policy: ObjectKey,
    state: Mutex<State>,
}

/// The lock is held for a few operations, never across an await.
#[derive(Debug)]
pub(super) struct State {
    /// Of each limit of each set, in the order of the policy.
    pub(super) sets: Vec<Vec<Bucket>>,
    pub(super) estimates: Estimates,
}

impl PolicyState {
    fn new(limits: &PolicyLimits, now: Instant) -> Self {
        let full = |set: &LimitSet| set.limits.iter().map(|limit| Bucket::full(*limit, now)).collect();
        let sets = limits.sets.iter().map(full).collect();
        let state = Mutex::new(State { sets, estimates: Estimates::default() });
        Self { policy: limits.policy.clone(), state }
    }

    /// What is left of each limit of a set.
    pub(crate) fn standings(&self, set: usize, now: Instant) -> Vec<(RateLimit, Standing)> {
        let state = &mut *self.lock();
        let buckets = state.sets.get_mut(set).map_or(&mut [][..], Vec::as_mut_slice);
        let standing = |bucket: &mut Bucket| {
            bucket.refill(now);
            (bucket.limit, Standing::of(bucket))
        };
        buckets.iter_mut().map(standing).collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy has these limits now.
    fn change(&self, limits: &PolicyLimits, now: Instant) {
        let mut state = self.lock();
        let old = std::mem::take(&mut state.sets);
        let changed = |(at, set): (usize, &LimitSet)| {
            let old = old.get(at).map_or(&[][..], Vec::as_slice);
            set.limits.iter().enumerate().map(|(at, limit)| carried_over(old.get(at), *limit, now)).collect()
        };
        state.sets = limits.sets.iter().enumerate().map(changed).collect();
    }
}

/// The bucket of a limit that was `old` before.
fn carried_over(old: Option<&Bucket>, limit: RateLimit, now: Instant) -> Bucket {
    match old {
        Some(old) if old.limit == limit => *old,
        Some(old) if old.limit.measure == limit.measure && old.limit.unit == limit.unit => {
            old.changed(limit, now)
        }
        _ => Bucket::full(limit, now),
    }
}

/// The states of all policies with limits.
#[derive(Debug, Default)]
pub(crate) struct LimitRegistry {
    by_policy: BTreeMap<ObjectKey, Arc<PolicyState>>,
}

impl LimitRegistry {
    /// The states of `policies`, by [`PolicyLimits::index`]. Others are forgotten.
    pub(crate) fn update(&mut self, policies: &[Arc<PolicyLimits>]) -> Vec<Arc<PolicyState>> {
        let now = Instant::now();
        let mut old = std::mem::take(&mut self.by_policy);
        let states: Vec<Arc<PolicyState>> = policies
            .iter()
            .map(|limits| match old.remove(&limits.policy) {
                Some(known) => {
                    known.change(limits, now);
                    known
                }
                None => Arc::new(PolicyState::new(limits, now)),
            })
            .collect();
        self.by_policy = states.iter().map(|state| (state.policy.clone(), state.clone())).collect();
        states
    }
}
