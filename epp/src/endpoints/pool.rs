//! The state of all endpoints of a pool.
//!
//! One lock guards all of it. Reports and reservations hold it for microseconds and never across an await. Picks compare
//! endpoints by a [`Snapshot`] without the lock.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use forebay_resources::PoolEndpoint;
use forebay_telemetry::client::Received;

use super::{
    ledger::{PickId, Work},
    reports::{Agent, Effects, Members},
    snapshot::Snapshot,
    state::{EndpointState, Outcome, Priors, signed_seconds},
    view::EndpointView,
    waiting::{Prompt, added_waiting},
};
use crate::signals::{BLOCK_BYTES, IndexBudget, PrefixIndex, Slot, median};

/// Time between two computations of what endpoints without measurements start from.
const PRIORS_INTERVAL: Duration = Duration::from_secs(1);

/// The endpoints of a pool with their load. Shared by the scheduler and the tasks that update it.
#[derive(Debug)]
pub struct Endpoints {
    state: Mutex<PoolState>,
    snapshot: ArcSwap<Snapshot>,
    prefixes: PrefixIndex,
    /// Index of the last pick. Endpoints with equal scores take turns from there.
    cursor: AtomicUsize,
    /// Number of picks whose load the snapshot shows.
    picks: AtomicU64,
    /// Zero of the times in snapshots.
    base: Instant,
    /// Maximum age of a report since it was last confirmed.
    stale_after: Duration,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct PoolState {
    /// The newest snapshot. Its members are `endpoints`, in the same order.
    snapshot: Arc<Snapshot>,
    endpoints: Vec<EndpointState>,
    /// Index in `endpoints`.
    by_address: foldhash::HashMap<SocketAddr, usize>,
    agents: HashMap<SocketAddr, Agent>,
    slots: Slots,
    priors: Priors,
    priors_at: Instant,
    /// Of the responses of all engines, with decreasing weight.
    generated_tokens: f64,
    ended_requests: f64,
    next_pick: u64,
}

/// Numbers of endpoints in the prefix index.
#[derive(Debug, Default)]
struct Slots {
    free: Vec<Slot>,
    used: Slot,
}

impl Slots {
    fn take(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        })
    }
}

impl Endpoints {
    /// A pool without members. Reports may be used for `stale_after` since they were last confirmed.
    pub fn new(stale_after: Duration) -> Self {
        Self::starting_at(stale_after, Instant::now())
    }

    /// Like [`Endpoints::new`]. `now`: earliest time of all calls, for simulations.
    pub fn starting_at(stale_after: Duration, now: Instant) -> Self {
        let snapshot = Arc::new(Snapshot::default());
        let state = PoolState {
            snapshot: Arc::clone(&snapshot),
            endpoints: Vec::new(),
            by_address: foldhash::HashMap::default(),
            agents: HashMap::new(),
            slots: Slots::default(),
            priors: Priors::default(),
            priors_at: now,
            generated_tokens: 0.0,
            ended_requests: 0.0,
            next_pick: 0,
        };
        Self {
            state: Mutex::new(state),
            snapshot: ArcSwap::new(snapshot),
            prefixes: PrefixIndex::new(IndexBudget::of_process()),
            // Random, so that replicas of a picker do not all start with the same endpoint.
            cursor: AtomicUsize::new(fastrand::usize(..)),
            picks: AtomicU64::new(0),
            base: now,
            stale_after,
        }
    }

    /// The members with their numbers.
    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Which endpoint has which prefixes.
    pub(crate) fn prefixes(&self) -> &PrefixIndex {
        &self.prefixes
    }

    /// The time as in snapshots.
    pub(crate) fn seconds(&self, at: Instant) -> f64 {
        signed_seconds(at, self.base)
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the members of the pool. `None` if the pool does not exist. Endpoints of the same pod keep their load and
    /// their picks.
    pub fn set_members(&self, members: Option<Vec<PoolEndpoint>>) {
        self.set_members_at(members, Instant::now());
    }

    /// Like [`Endpoints::set_members`], at another time than now.
    pub fn set_members_at(&self, members: Option<Vec<PoolEndpoint>>, now: Instant) {
        let state = &mut *self.lock();
        let pool_exists = members.is_some();
        let mut old: HashMap<SocketAddr, EndpointState> =
            state.endpoints.drain(..).map(|old| (old.endpoint.address, old)).collect();
        state.by_address.clear();
        for endpoint in members.unwrap_or_default() {
            let address = endpoint.address;
            if state.by_address.contains_key(&address) {
                tracing::warn!(%address, pod = %endpoint.pod, "two pods of the pool have the same address; ignoring the second pod");
                continue;
            }
            let is_same =
                |it: &EndpointState| it.endpoint.pod == endpoint.pod && it.endpoint.uid == endpoint.uid;
            let member = match old.get(&address).is_some_and(is_same).then(|| old.remove(&address)).flatten()
            {
                Some(mut kept) => {
                    kept.endpoint = endpoint;
                    kept
                }
                None => state.new_endpoint(endpoint, self.stale_after, now),
            };
            state.by_address.insert(address, state.endpoints.len());
            state.endpoints.push(member);
        }
        for gone in old.into_values() {
            self.prefixes.clear(gone.slot);
            state.slots.free.push(gone.slot);
        }
        for agent in state.agents.values_mut() {
            agent.keep_reports_on(&state.by_address);
        }
        let members = state.endpoints.iter().map(|it| (it.endpoint.clone(), it.slot));
        state.snapshot = Arc::new(Snapshot::new(pool_exists, members));
        state.snapshot.set_models(state.endpoints.iter().map(|it| it.models.clone()));
        for (index, endpoint) in state.endpoints.iter().enumerate() {
            state.snapshot.set_adapters(index, endpoint.adapters.clone());
            self.publish(state, index);
        }
        self.snapshot.store(Arc::clone(&state.snapshot));
    }

    fn publish(&self, state: &PoolState, index: usize) {
        if let Some(endpoint) = state.endpoints.get(index) {
            let numbers = endpoint.numbers(&state.priors, self.base, self.stale_after);
            state.snapshot.cell(index).store(&numbers);
        }
    }

    /// Applies a frame of an agent. Reports on other endpoints than the members are ignored.
    pub fn apply(&self, agent_address: SocketAddr, received: &Received) {
        let state = &mut *self.lock();
        let agent = state.agents.entry(agent_address).or_default();
        let mut members = Members::new(&mut state.endpoints, &state.by_address, state.priors);
        agent.apply(received, self.stale_after, &mut members);
        let Effects {
            mut touched,
            restarted,
            has_new_models,
            new_adapters,
            generated_tokens,
            ended_requests,
        } = members.into_effects();
        if has_new_models {
            state.snapshot.set_models(state.endpoints.iter().map(|it| it.models.clone()));
        }
        for index in new_adapters.into_iter().chain(restarted.iter().copied()) {
            state.snapshot.set_adapters(index, state.endpoints[index].adapters.clone());
        }
        for index in restarted {
            self.prefixes.clear(state.endpoints[index].slot);
        }
        state.count_output(generated_tokens, ended_requests);
        let is_due = received.at.saturating_duration_since(state.priors_at) >= PRIORS_INTERVAL;
        if is_due {
            state.compute_priors(received.at);
            self.set_capacities(state);
        }
        let all = 0..if is_due { state.endpoints.len() } else { 0 };
        touched.sort_unstable();
        touched.dedup();
        for index in touched.into_iter().chain(all) {
            self.publish(state, index);
        }
    }

    fn set_capacities(&self, state: &PoolState) {
        for endpoint in &state.endpoints {
            let blocks = endpoint.engine.capacity_bytes().map(|bytes| (bytes / BLOCK_BYTES as f64) as usize);
            self.prefixes.set_capacity(endpoint.slot, blocks);
        }
    }

    /// The agent no longer exists. Reports already applied to endpoints are used until they are stale.
    pub fn remove_agent(&self, agent: SocketAddr) {
        self.lock().agents.remove(&agent);
    }

    /// The current state of all members.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let now = Instant::now();
        let state = self.lock();
        (0..state.endpoints.len()).filter_map(|index| self.view(&state, index, now)).collect()
    }

    /// The current state of the members with these addresses. `None` for an address that is gone.
    pub(crate) fn views_of(&self, addresses: &[SocketAddr]) -> Vec<Option<EndpointView>> {
        let now = Instant::now();
        let state = self.lock();
        let view = |address| self.view(&state, *state.by_address.get(address)?, now);
        addresses.iter().map(view).collect()
    }

    fn view(&self, state: &PoolState, index: usize, now: Instant) -> Option<EndpointView> {
        let cell = state.snapshot.cell(index);
        let waiting = added_waiting(cell, Prompt::default(), self.seconds(now));
        Some(state.endpoints.get(index)?.view(now, self.stale_after, waiting))
    }

    /// Number of picks until now. Numbers of a snapshot that are read later show them.
    pub(crate) fn picks(&self) -> u64 {
        self.picks.load(Acquire)
    }

    /// Adds a pick to the endpoint that `choose` returns as an index of `snapshot`, so that the next pick sees it. `choose`
    /// sees numbers that no other pick changes meanwhile, and is told whether there were other picks after the first
    /// `seen_picks`. `None`: the endpoint is gone.
    pub(crate) fn reserve(
        &self,
        snapshot: &Arc<Snapshot>,
        seen_picks: u64,
        now: Instant,
        choose: impl FnOnce(bool) -> usize,
        work: impl FnOnce(usize) -> Work,
    ) -> Option<(usize, PickId, Option<Duration>)> {
        let state = &mut *self.lock();
        let best = choose(state.next_pick != seen_picks);
        let pick = PickId(state.next_pick);
        state.next_pick += 1;
        let index = if Arc::ptr_eq(snapshot, &state.snapshot) {
            best
        } else {
            *state.by_address.get(&snapshot.endpoint(best)?.address)?
        };
        self.turn(index);
        let endpoint = state.endpoints.get_mut(index)?;
        endpoint.add_pick(pick, now, work(best));
        let age = endpoint.use_kernel_count(now, self.stale_after);
        self.publish(state, index);
        self.picks.store(state.next_pick, Release);
        Some((best, pick, age))
    }

    /// It was the turn of the endpoint with this index.
    pub(crate) fn turn(&self, index: usize) {
        self.cursor.store(index, Relaxed);
    }

    /// The index of the last pick. Any number before the first pick.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor.load(Relaxed)
    }

    /// The response of the pick's request has begun.
    pub(crate) fn first_byte(&self, address: SocketAddr, pick: PickId, now: Instant) {
        let state = &mut *self.lock();
        let priors = state.priors;
        if let Some(index) = state.by_address.get(&address).copied() {
            state.endpoints[index].first_byte(pick, &priors, now);
            self.publish(state, index);
        }
    }

    /// The request of the pick ended.
    pub(crate) fn release(&self, address: SocketAddr, pick: PickId, outcome: Outcome, now: Instant) {
        let state = &mut *self.lock();
        if let Some(index) = state.by_address.get(&address).copied() {
            state.endpoints[index].remove_pick(pick, outcome, now);
            self.publish(state, index);
        }
    }

    /// The request was served by `to` instead of `from`.
    pub(crate) fn move_pick(&self, pick: PickId, from: SocketAddr, to: SocketAddr, now: Instant) {
        let state = &mut *self.lock();
        let index = |address| state.by_address.get(&address).copied();
        let (from, to) = (index(from), index(to));
        let removed = from.and_then(|from| state.endpoints[from].remove_pick(pick, Outcome::Failed, now));
        if let (Some((picked_at, work)), Some(to)) = (removed, to) {
            state.endpoints[to].add_served(pick, picked_at, work);
            self.publish(state, to);
        }
        if let Some(from) = from {
            self.publish(state, from);
        }
    }
}

impl PoolState {
    /// Responses of an engine.
    fn count_output(&mut self, generated_tokens: f64, ended_requests: f64) {
        /// Requests whose mean is the expected length of a response, about.
        const REQUESTS: f64 = 200.0;
        let keep = (1.0 - ended_requests / REQUESTS).max(0.0);
        self.generated_tokens = self.generated_tokens * keep + generated_tokens;
        self.ended_requests = self.ended_requests * keep + ended_requests;
    }

    fn compute_priors(&mut self, now: Instant) {
        let defaults = Priors::default();
        let endpoints = &self.endpoints;
        let prefill = median(endpoints.iter().filter_map(|it| it.measured_prefill(&defaults)));
        let token = median(endpoints.iter().filter_map(|it| it.measured_token(&defaults)));
        let has_output = self.ended_requests >= 1.0;
        let output_tokens =
            if has_output { self.generated_tokens / self.ended_requests } else { defaults.output_tokens };
        self.priors = Priors {
            prefill: prefill.unwrap_or(defaults.prefill),
            token: token.unwrap_or(defaults.token),
            output_tokens,
        };
        self.priors_at = now;
    }

    /// A new member, with the load that an agent has reported while another pod had its address.
    fn new_endpoint(&mut self, endpoint: PoolEndpoint, stale_after: Duration, now: Instant) -> EndpointState {
        let mut member = EndpointState::new(endpoint, self.slots.take(), now);
        let address = member.endpoint.address;
        for agent in self.agents.values() {
            if let Some(report) = agent.reports.get(&address).filter(|report| report.is_about(&member)) {
                member.set_kernel(report.kernel, false, &self.priors);
                member.set_engine(report.engine);
                let until = agent.last_frame.filter(|_| agent.has_lost(report)).map(|at| at + stale_after);
                member.set_gpu_lost_until(until);
                member.models.clone_from(&report.models);
                if let Some(adapters) = &report.adapters {
                    member.adapters.get_or_insert_default().read(adapters);
                }
                if let Some(at) = agent.last_frame {
                    member.set_verdict(report.verdict(at + stale_after), at);
                }
            }
        }
        member
    }
}
