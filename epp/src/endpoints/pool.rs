//! The state of all endpoints of a pool.
//!
//! One lock guards all of it. Reports and reservations hold it for microseconds and never across an await. Picks compare
//! endpoints by a [`Snapshot`] without the lock.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
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
    view::{AgentView, EndpointView},
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
        let members = state.endpoints.iter().map(|it| (it.endpoint.clone(), it.slot));
        state.snapshot = Arc::new(Snapshot::new(pool_exists, members));
        for index in 0..state.endpoints.len() {
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

    /// Accepts reports of this agent from now on.
    pub fn add_agent(&self, agent: SocketAddr) {
        self.lock().agents.entry(agent).or_default();
    }

    /// Applies a frame of an agent. Frames of agents that were not [added](Endpoints::add_agent) are ignored.
    pub fn apply(&self, agent_address: SocketAddr, received: &Received) {
        let state = &mut *self.lock();
        let Some(agent) = state.agents.get_mut(&agent_address) else { return };
        let mut members = Members::new(&mut state.endpoints, &state.by_address, state.priors);
        agent.apply(received, self.stale_after, &mut members);
        let Effects { touched, restarted, generated_tokens, ended_requests } = members.into_effects();
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

    /// The stream of the agent ended. Its reports are used until they are stale. Returns whether this is the first call
    /// since the last frame.
    pub fn agent_down(&self, agent: SocketAddr) -> bool {
        let mut state = self.lock();
        let Some(agent) = state.agents.get_mut(&agent) else { return false };
        agent.connected = false;
        !std::mem::replace(&mut agent.reported_down, true)
    }

    /// The agent no longer exists. Reports already applied to endpoints are used until they are stale.
    pub fn remove_agent(&self, agent: SocketAddr) {
        self.lock().agents.remove(&agent);
    }

    /// The current state of all members.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let now = Instant::now();
        let seconds = self.seconds(now);
        let state = self.lock();
        let view = |(index, it): (usize, &EndpointState)| {
            it.view(
                now,
                self.stale_after,
                added_waiting(state.snapshot.cell(index), Prompt::default(), seconds),
            )
        };
        state.endpoints.iter().enumerate().map(view).collect()
    }

    /// The current state of all agents.
    pub fn agents(&self) -> Vec<AgentView> {
        let now = Instant::now();
        let state = self.lock();
        let views = state.agents.iter().map(|(address, agent)| AgentView {
            address: *address,
            node: agent.node.clone(),
            connected: agent.connected,
            frame_age: agent.last_frame.map(|at| now.saturating_duration_since(at)),
        });
        views.collect()
    }

    /// Adds a pick to the endpoint that `choose` returns as an index of `snapshot`, so that the next pick sees it. `choose`
    /// sees numbers that no other pick changes meanwhile. `None`: the endpoint is gone.
    pub(crate) fn reserve(
        &self,
        snapshot: &Arc<Snapshot>,
        now: Instant,
        choose: impl FnOnce() -> usize,
        work: impl FnOnce(usize) -> Work,
    ) -> Option<(usize, PickId, Option<Duration>)> {
        let state = &mut *self.lock();
        let best = choose();
        let pick = PickId(state.next_pick);
        state.next_pick += 1;
        let index = if Arc::ptr_eq(snapshot, &state.snapshot) {
            best
        } else {
            *state.by_address.get(&snapshot.endpoint(best)?.address)?
        };
        self.cursor.store(index, Relaxed);
        let endpoint = state.endpoints.get_mut(index)?;
        endpoint.add_pick(pick, now, work(best));
        let age = endpoint.use_kernel_count(now, self.stale_after);
        self.publish(state, index);
        Some((best, pick, age))
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

    /// A new member, with the load that an agent may have reported before the pod became a member.
    fn new_endpoint(&mut self, endpoint: PoolEndpoint, stale_after: Duration, now: Instant) -> EndpointState {
        let mut member = EndpointState::new(endpoint, self.slots.take(), now);
        let address = member.endpoint.address;
        for agent in self.agents.values() {
            if let Some(report) = agent.reports.get(&address).filter(|report| report.is_about(&member)) {
                member.set_kernel(report.kernel, false, &self.priors);
                member.set_engine(report.engine);
                let until = agent.last_frame.filter(|_| agent.has_lost(report)).map(|at| at + stale_after);
                member.set_gpu_lost_until(until);
            }
        }
        member
    }
}
