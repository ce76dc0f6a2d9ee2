//! The counters of one quota.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_resources::{ObjectKey, QuotaMode};
use forebay_routing::{AppliedQuota, Price, Quota, QuotaLimit};

use super::counters::{Counters, QuotaStanding};
use super::exceeded::QuotaExceeded;
use super::values::{CounterMap, Found, MAX_VALUES, Place};
use crate::limit::estimate::{Estimate, Estimates, Expected};
use crate::limit::served::Served;
use crate::limit::standing::Standing;

/// Time between two lines about too many values.
const CROWDING_LOG_SECONDS: u64 = 60;

/// State of one quota.
#[derive(Debug)]
pub(crate) struct QuotaState {
    quota: ObjectKey,
    state: Mutex<State>,
}

/// The lock is held for a few operations, never across an await.
#[derive(Debug)]
struct State {
    limits: Vec<QuotaLimit>,
    /// For each limit: the first request that it has counted.
    since: Vec<u64>,
    /// Requests that were counted.
    requests: u64,
    /// The latest time that was seen. A clock that goes back does not open a window twice; one that was ahead delays the next
    /// window until that time.
    latest: u64,
    estimates: Estimates,
    counters: CounterMap,
    /// When the next line about too many values may be logged.
    next_crowding_log: u64,
}

/// What a request has taken of a quota. Dropping it settles: what was reserved stays used, and the request is not in flight
/// any more.
#[derive(Debug)]
pub(crate) struct QuotaTaken {
    state: Arc<QuotaState>,
    place: Place,
    estimate: Estimate,
    price: Option<Price>,
    /// Number of the request.
    request: u64,
    /// Seconds since 1970.
    admitted: u64,
    served: Served,
    standings: Vec<QuotaStanding>,
    mode: QuotaMode,
    /// It was admitted only because the quota warns.
    is_above: bool,
    is_crowded_out: bool,
}

impl QuotaState {
    pub(super) fn new(quota: &Quota) -> Self {
        Self::with_values(quota.key.clone(), &quota.limits, MAX_VALUES)
    }

    pub(super) fn with_values(quota: ObjectKey, limits: &[QuotaLimit], max_values: usize) -> Self {
        let state = State {
            limits: limits.to_vec(),
            since: vec![0; limits.len()],
            requests: 0,
            latest: 0,
            estimates: Estimates::default(),
            counters: CounterMap::new(max_values),
            next_crowding_log: 0,
        };
        Self { quota, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The quota has these limits now. A limit of the same kind and window keeps what was counted.
    pub(super) fn change(&self, limits: &[QuotaLimit]) {
        let mut state = self.lock();
        if state.limits == limits {
            return;
        }
        let mut positions: Vec<Option<usize>> = Vec::new();
        for limit in limits {
            let is_same = |(at, old): &(usize, &QuotaLimit)| {
                old.measure == limit.measure && old.window == limit.window && !positions.contains(&Some(*at))
            };
            positions.push(state.limits.iter().enumerate().find(is_same).map(|(at, _)| at));
        }
        let since = |at: &Option<usize>| at.map_or(state.requests, |at| state.since[at]);
        state.since = positions.iter().map(since).collect();
        state.limits = limits.to_vec();
        state.counters.all().for_each(|counters| counters.change(&positions));
    }

    /// Takes a request, or fails if a limit has no room for it and the quota is enforced. `expected`: of a request to a model.
    /// `now`: seconds since 1970.
    pub(crate) fn take(
        self: &Arc<Self>,
        applied: &AppliedQuota<'_>,
        expected: Option<&Expected>,
        now: u64,
    ) -> Result<QuotaTaken, Box<QuotaExceeded>> {
        let mode = applied.quota.mode;
        self.take_as(mode, applied.value.as_deref(), applied.price, expected, now)
    }

    pub(super) fn take_as(
        self: &Arc<Self>,
        mode: QuotaMode,
        value: Option<&str>,
        price: Option<Price>,
        expected: Option<&Expected>,
        now: u64,
    ) -> Result<QuotaTaken, Box<QuotaExceeded>> {
        let state = &mut *self.lock();
        state.latest = state.latest.max(now);
        let estimate = expected.map_or_else(Estimate::default, |expected| state.estimates.of(expected));
        let tokens = estimate.token_use();
        let Found { place, is_crowded_out } = state.counters.find(value, state.latest);
        if is_crowded_out && state.latest >= state.next_crowding_log {
            state.next_crowding_log = state.latest + CROWDING_LOG_SECONDS;
            tracing::warn!(
                quota = %self.quota, MAX_VALUES,
                "too many values of spec.per in one window; further ones share one set of counters"
            );
        }
        let counters = state.counters.at(&place);
        counters.roll(&state.limits, state.latest);
        let closed = counters.closed(&state.limits, tokens, price);
        if let Some(closed) = closed.filter(|_| mode == QuotaMode::Enforce) {
            let wait = closed.opens_at.map_or(1, |at| at.saturating_sub(now));
            return Err(Box::new(QuotaExceeded {
                quota: self.quota.clone(),
                limit: closed.limit,
                opens_at: closed.opens_at,
                retry_after: Duration::from_secs(wait),
                standings: shown(&counters.standings(&state.limits, now)),
                is_crowded_out,
            }));
        }
        counters.take(&state.limits, tokens, price);
        let standings = counters.standings(&state.limits, now);
        let request = state.requests;
        state.requests += 1;
        Ok(QuotaTaken {
            state: self.clone(),
            place,
            estimate,
            price,
            request,
            admitted: state.latest,
            served: Served::Unknown,
            standings,
            mode,
            is_above: closed.is_some(),
            is_crowded_out,
        })
    }

    /// What is left of the limits for a value of `per`. `now`: seconds since 1970.
    pub(crate) fn standings(&self, value: Option<&str>, now: u64) -> Vec<QuotaStanding> {
        let state = &*self.lock();
        let mut counters: Counters = state.counters.peek(value);
        counters.roll(&state.limits, state.latest.max(now));
        counters.standings(&state.limits, now)
    }

    fn release(&self, taken: &QuotaTaken) {
        let state = &mut *self.lock();
        let counters = state.counters.at(&taken.place);
        counters.in_flight = counters.in_flight.saturating_sub(1);
        let is_counted = taken.served != Served::NotAdmitted;
        let (reserved, used) = (taken.estimate.token_use(), taken.served.tokens(taken.estimate));
        for (at, (limit, since)) in state.limits.iter().zip(&state.since).enumerate() {
            if *since <= taken.request {
                let used = if is_counted { limit.used_by(used, taken.price) } else { 0 };
                counters.correct(at, taken.admitted, limit.used_by(reserved, taken.price), used);
            }
        }
    }
}

/// For headers of responses.
fn shown(standings: &[QuotaStanding]) -> Vec<Standing> {
    standings.iter().filter_map(QuotaStanding::shown).collect()
}

impl QuotaTaken {
    pub(crate) fn quota(&self) -> &ObjectKey {
        &self.state.quota
    }

    /// Whether it was admitted only because the quota warns.
    pub(crate) fn is_above(&self) -> bool {
        self.is_above
    }

    /// The value of `per` has no counters of its own.
    pub(crate) fn is_crowded_out(&self) -> bool {
        self.is_crowded_out
    }

    /// For headers of responses. None of a quota that rejects no request.
    pub(in crate::limit) fn standings(&self) -> Vec<Standing> {
        if self.mode == QuotaMode::Enforce { shown(&self.standings) } else { Vec::new() }
    }

    /// Corrects what was taken.
    pub(in crate::limit) fn settle(mut self, served: Served, expected: Option<&Expected>) {
        if let (Served::Reported(usage), Some(expected)) = (served, expected) {
            self.state.lock().estimates.learn(expected, usage);
        }
        self.served = served;
    }
}

impl Drop for QuotaTaken {
    fn drop(&mut self) {
        self.state.release(self);
    }
}
