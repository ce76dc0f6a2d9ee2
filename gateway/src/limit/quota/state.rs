//! The counters of one quota.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use forebay_resources::{ObjectKey, QuotaMode, StoreFailure};
use forebay_routing::{AppliedQuota, Price, Quota, QuotaLimit};
use prometheus_client::metrics::counter::Counter;

use super::QuotaStore;
use super::counters::{Amounts, Closed, Counters, Need, QuotaStanding, Standings};
use super::exceeded::{QuotaExceeded, QuotaRejection};
use super::share::{Share, Shares};
use super::store::{Changes, Handle, Unavailable};
use super::values::{CounterMap, Found, MAX_VALUES, Place};
use crate::limit::estimate::{Estimate, Estimates, Expected};
use crate::limit::served::Served;
use crate::limit::standing::Standing;

/// Time between two lines about too many values.
const CROWDING_LOG_SECONDS: u64 = 60;

/// State of one quota.
#[derive(Debug)]
pub(crate) struct QuotaState {
    pub(super) quota: ObjectKey,
    state: Mutex<State>,
    /// Of counters that gateways share.
    changes: Option<Changes<QuotaState>>,
    /// Set when counters that are kept in a file have changed.
    kept: Option<Arc<AtomicBool>>,
    /// Metric of the requests that it admits. Set when the first one is admitted.
    admitted: OnceLock<Counter>,
}

/// The lock is held for a few operations, never across an await.
#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Vec<QuotaLimit>,
    /// For each limit: the first request that it has counted.
    since: Vec<u64>,
    /// Requests that were counted.
    requests: u64,
    /// The latest time that was seen. A clock that goes back does not open a window twice; one that was ahead delays the next
    /// window until that time.
    pub(super) latest: u64,
    estimates: Estimates,
    pub(super) counters: CounterMap,
    /// Gateways share the counters.
    is_shared: bool,
    /// What this gateway admits of the limits while gateways do not share the counters.
    shares: Arc<Shares>,
    /// When the next line about too many values may be logged.
    next_crowding_log: u64,
}

/// A request to a quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'r> {
    pub(super) mode: QuotaMode,
    /// Of `per`.
    pub(super) value: Option<&'r str>,
    pub(super) price: Option<Price>,
    /// Of a request to a model.
    pub(super) expected: Option<&'r Expected>,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// A request for which nothing is taken yet.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    place: Place,
    estimate: Estimate,
    price: Option<Price>,
    mode: QuotaMode,
    is_crowded_out: bool,
    /// Of the system's clock.
    now: u64,
}

/// What a request has taken of a quota. Dropping it settles: what was reserved stays used, and the request is not in flight
/// any more.
#[derive(Debug)]
pub(crate) struct QuotaTaken {
    state: Arc<QuotaState>,
    wanted: Wanted,
    /// Number of the request.
    request: u64,
    /// Seconds since 1970.
    admitted: u64,
    served: Served,
    standings: Standings,
    /// It was admitted only because the quota warns.
    is_above: bool,
}

impl Wanted {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn need(&self) -> Need {
        Need { tokens: self.estimate.token_use(), price: self.price }
    }
}

impl QuotaState {
    /// `store`: where gateways share the counters. `kept`: set when counters that are kept in a file have changed.
    pub(super) fn new(
        quota: &Quota,
        store: Option<&Handle<Self>>,
        kept: Option<Arc<AtomicBool>>,
        shares: &Arc<Shares>,
    ) -> Arc<Self> {
        let changes = store.map(|store| store.changes().clone());
        let mut state = Self::with_values(quota.key.clone(), &quota.limits, MAX_VALUES, changes);
        state.kept = kept;
        state.divide(shares);
        let state = Arc::new(state);
        if let Some(store) = store {
            store.add(&state);
        }
        state
    }

    pub(super) fn with_values(
        quota: ObjectKey,
        limits: &[QuotaLimit],
        max_values: usize,
        changes: Option<Changes<Self>>,
    ) -> Self {
        let state = State {
            limits: limits.to_vec(),
            since: vec![0; limits.len()],
            requests: 0,
            latest: 0,
            estimates: Estimates::default(),
            counters: CounterMap::new(max_values),
            is_shared: changes.is_some(),
            shares: Arc::new(Shares::new(Duration::ZERO)),
            next_crowding_log: 0,
        };
        Self { quota, state: Mutex::new(state), changes, kept: None, admitted: OnceLock::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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

    /// This gateway has other shares of the limits now.
    pub(super) fn divide(&self, shares: &Arc<Shares>) {
        self.lock().shares = shares.clone();
    }

    /// Takes a request, or fails if a limit has no room for it and the quota is enforced. Waits only for a store in which a
    /// limit is near.
    pub(crate) async fn take(
        self: &Arc<Self>,
        applied: &AppliedQuota<'_, '_>,
        expected: Option<&Expected>,
        now: u64,
        store: Option<&QuotaStore>,
    ) -> Result<QuotaTaken, QuotaRejection> {
        let quota = applied.quota;
        let request = Request {
            mode: quota.mode,
            value: applied.value.as_deref(),
            price: applied.price,
            expected,
            now,
        };
        let Some(QuotaStore(store)) = store.filter(|_| quota.mode == QuotaMode::Enforce) else {
            return Ok(self.take_here(&request)?);
        };
        let wanted = match self.take_granted(&request) {
            Ok(taken) => return Ok(taken),
            Err(wanted) => wanted,
        };
        // Boxed, so that it adds nothing to the future of requests that do not wait.
        match Box::pin(store.reserve(self.clone(), wanted.place.clone(), wanted.clone())).await {
            Ok(outcome) => Ok(outcome?),
            Err(Unavailable) => self.take_without_store(wanted, quota.store_failure, store.share()),
        }
    }

    /// By the counters of this process.
    pub(super) fn take_here(
        self: &Arc<Self>,
        request: &Request<'_>,
    ) -> Result<QuotaTaken, Box<QuotaExceeded>> {
        let state = &mut *self.lock();
        let wanted = state.wanted(&self.quota, request);
        let closed = state.rolled(&wanted.place).closed(&wanted.need());
        match closed {
            Some(closed) if wanted.mode == QuotaMode::Enforce => Err(self.exceeded(state, &wanted, closed)),
            closed => Ok(self.taken(state, wanted, closed.is_some())),
        }
    }

    fn take_granted(self: &Arc<Self>, request: &Request<'_>) -> Result<QuotaTaken, Wanted> {
        let state = &mut *self.lock();
        let wanted = state.wanted(&self.quota, request);
        if state.rolled(&wanted.place).are_granted(&wanted.need(), Instant::now()) {
            return Ok(self.taken(state, wanted, false));
        }
        Err(wanted)
    }

    /// By the rule of the quota.
    fn take_without_store(
        self: &Arc<Self>,
        wanted: Wanted,
        rule: StoreFailure,
        share: Share,
    ) -> Result<QuotaTaken, QuotaRejection> {
        let state = &mut *self.lock();
        let closed = match rule {
            StoreFailure::Closed => return Err(QuotaRejection::StoreUnavailable(self.quota.clone())),
            StoreFailure::Open => None,
            StoreFailure::Share => state.rolled(&wanted.place).closed_of_share(&wanted.need(), share),
        };
        match closed {
            Some(closed) => Err(self.exceeded(state, &wanted, closed).into()),
            None => Ok(self.taken(state, wanted, false)),
        }
    }

    /// Counts a request.
    pub(super) fn taken(self: &Arc<Self>, state: &mut State, wanted: Wanted, is_above: bool) -> QuotaTaken {
        let rolled = state.rolled(&wanted.place);
        rolled.counters.take(rolled.limits, &wanted.need());
        let standings = rolled.standings(wanted.now);
        let request = state.requests;
        state.requests += 1;
        self.changed(state, &wanted.place);
        QuotaTaken {
            state: self.clone(),
            request,
            admitted: state.latest,
            served: Served::Unknown,
            standings,
            is_above,
            wanted,
        }
    }

    pub(super) fn exceeded(&self, state: &mut State, wanted: &Wanted, closed: Closed) -> Box<QuotaExceeded> {
        let wait = closed.opens_at.map_or(1, |at| at.saturating_sub(wanted.now));
        Box::new(QuotaExceeded {
            quota: self.quota.clone(),
            limit: closed.limit,
            share: closed.share,
            opens_at: closed.opens_at,
            retry_after: Duration::from_secs(wait),
            standings: shown(&state.rolled(&wanted.place).standings(wanted.now)),
            is_crowded_out: wanted.is_crowded_out,
        })
    }

    /// What is left of the limits for a value of `per`. `now`: seconds since 1970.
    pub(crate) async fn standings(
        self: &Arc<Self>,
        value: Option<&str>,
        now: u64,
        store: Option<&QuotaStore>,
    ) -> Vec<QuotaStanding> {
        if let Some(QuotaStore(store)) = store {
            let place = self.lock().counters.find(value, now).place;
            // Without the store, what is known here.
            let _ = store.read(self.clone(), place).await;
        }
        self.standings_here(value, now)
    }

    pub(super) fn standings_here(&self, value: Option<&str>, now: u64) -> Vec<QuotaStanding> {
        let state = &*self.lock();
        let mut counters: Counters = state.counters.peek(value);
        let latest = state.latest.max(now);
        counters.roll(&state.limits, latest);
        counters.standings(&state.limits, now, state.amounts(latest)).into_vec()
    }

    fn release(self: &Arc<Self>, taken: &QuotaTaken) {
        let state = &mut *self.lock();
        let wanted = &taken.wanted;
        let counters = state.counters.at(&wanted.place);
        counters.in_flight = counters.in_flight.saturating_sub(1);
        let is_counted = taken.served != Served::NotAdmitted;
        let used_tokens = taken.served.tokens(wanted.estimate);
        let need = wanted.need();
        for (at, (limit, since)) in state.limits.iter().zip(&state.since).enumerate() {
            if *since <= taken.request {
                let used = if is_counted { limit.used_by(used_tokens, wanted.price) } else { 0 };
                counters.correct(at, taken.admitted, need.of(limit), used);
            }
        }
        self.changed(state, &wanted.place);
    }

    /// Tells the store of a set of counters, if they are shared, or that the file has to be written.
    pub(super) fn changed(self: &Arc<Self>, state: &mut State, place: &Place) {
        if let Some(kept) = &self.kept {
            kept.store(true, Ordering::Relaxed);
        }
        let Some(changes) = &self.changes else { return };
        let shared = &mut state.counters.at(place).shared;
        if !shared.is_changed {
            shared.is_changed = true;
            changes.add(self.clone(), place.clone());
        }
    }
}

/// A set of counters whose windows contain the present.
pub(super) struct Rolled<'s> {
    pub(super) counters: &'s mut Counters,
    limits: &'s [QuotaLimit],
    amounts: Amounts<'s>,
    shares: &'s Shares,
    now: u64,
}

impl Rolled<'_> {
    pub(super) fn closed(&self, need: &Need) -> Option<Closed> {
        self.counters.closed(self.limits, need, self.amounts)
    }

    /// The limit that opens last.
    pub(super) fn last(&self) -> Option<Closed> {
        self.counters.last(self.limits)
    }

    /// `share`: by the number of gateways that the store has counted.
    fn closed_of_share(&self, need: &Need, share: Share) -> Option<Closed> {
        let amounts = Amounts::DividedTwice { shares: self.shares, now: self.now, share };
        self.counters.closed(self.limits, need, amounts)
    }

    fn are_granted(&self, need: &Need, now: Instant) -> bool {
        self.counters.are_granted(self.limits, need, now)
    }

    fn standings(&self, now: u64) -> Standings {
        self.counters.standings(self.limits, now, self.amounts)
    }
}

impl State {
    pub(super) fn rolled(&mut self, place: &Place) -> Rolled<'_> {
        let now = self.latest;
        let amounts = amounts(self.is_shared, &self.shares, now);
        let counters = self.counters.at(place);
        counters.roll(&self.limits, now);
        Rolled { counters, limits: &self.limits, amounts, shares: &self.shares, now }
    }

    fn amounts(&self, now: u64) -> Amounts<'_> {
        amounts(self.is_shared, &self.shares, now)
    }

    fn wanted(&mut self, quota: &ObjectKey, request: &Request<'_>) -> Wanted {
        let Request { mode, value, price, expected, now } = *request;
        self.latest = self.latest.max(now);
        let estimate = expected.map_or_else(Estimate::default, |expected| self.estimates.of(expected));
        let Found { place, is_crowded_out } = self.counters.find(value, self.latest);
        if is_crowded_out && self.latest >= self.next_crowding_log {
            self.next_crowding_log = self.latest + CROWDING_LOG_SECONDS;
            tracing::warn!(
                %quota, MAX_VALUES,
                "too many values of spec.per in one window; further ones share one set of counters"
            );
        }
        Wanted { place, estimate, price, mode, is_crowded_out, now }
    }
}

fn amounts(is_shared: bool, shares: &Shares, now: u64) -> Amounts<'_> {
    if is_shared { Amounts::Shared } else { Amounts::Divided { shares, now } }
}

/// For headers of responses.
fn shown(standings: &[QuotaStanding]) -> Vec<Standing> {
    standings.iter().filter_map(QuotaStanding::shown).collect()
}

impl QuotaTaken {
    pub(crate) fn quota(&self) -> &ObjectKey {
        &self.state.quota
    }

    /// Counts it as admitted. `metric`: looks up the counter of the quota.
    pub(crate) fn count_admitted(&self, metric: impl FnOnce() -> Counter) {
        self.state.admitted.get_or_init(metric).inc();
    }

    /// Whether it was admitted only because the quota warns.
    pub(crate) fn is_above(&self) -> bool {
        self.is_above
    }

    /// The value of `per` has no counters of its own.
    pub(crate) fn is_crowded_out(&self) -> bool {
        self.wanted.is_crowded_out
    }

    /// For headers of responses. None of a quota that rejects no request.
    pub(in crate::limit) fn standings(&self) -> impl Iterator<Item = Standing> + '_ {
        let is_enforced = self.wanted.mode == QuotaMode::Enforce;
        self.standings.iter().filter(move |_| is_enforced).filter_map(QuotaStanding::shown)
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
