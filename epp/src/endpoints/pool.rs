//! The state of all endpoints of a pool, and the agents' reports that update it.
//!
//! One lock guards all of it. Reports and reservations hold it for microseconds and never across an await. Picks compare
//! endpoints by a [`Snapshot`] without the lock.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use forebay_resources::PoolEndpoint;
use forebay_telemetry::{
    Change, changes,
    client::Received,
    v1::{self, GpuHealth},
};

use super::{
    ledger::{PickId, Work},
    snapshot::Snapshot,
    state::{EndpointState, EngineGauges, KernelCount, Outcome, Priors, signed_seconds},
    view::{AgentView, EndpointView},
    waiting::{Prompt, added_waiting},
};
use crate::signals::{BLOCK_BYTES, IndexBudget, PrefixIndex, Slot, median};

/// Maximum endpoints accepted per agent. Further ones are ignored.
const MAX_ENDPOINTS_PER_AGENT: usize = 4096;
/// Maximum lost GPUs accepted per agent. Further ones are ignored.
const MAX_GPUS_PER_AGENT: usize = 1024;

/// Memory for the prefix index of a pool.
const PREFIX_INDEX_BYTES: usize = 64 << 20;
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

/// The state that one agent reported. It also contains pods that are not members of the pool, because they may become
/// members long after the report.
#[derive(Debug, Default)]
struct Agent {
    node: String,
    connected: bool,
    /// The loss of the stream was reported since the newest frame.
    reported_down: bool,
    epoch: u64,
    last_frame: Option<Instant>,
    reports: HashMap<SocketAddr, Report>,
    lost_gpus: HashSet<String>,
}

/// The report of an agent on one endpoint.
#[derive(Clone, Debug)]
struct Report {
    uid: String,
    kernel: Option<KernelCount>,
    engine: Option<EngineGauges>,
    gpu_uuids: Vec<String>,
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
            prefixes: PrefixIndex::new(IndexBudget::new(PREFIX_INDEX_BYTES)),
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

    pub(crate) fn lock(&self) -> MutexGuard<'_, PoolState> {
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
        agent.on_frame(received.at);
        let mut slots = Members {
            endpoints: &mut state.endpoints,
            by_address: &state.by_address,
            priors: state.priors,
            touched: Vec::new(),
            restarted: Vec::new(),
            generated_tokens: 0.0,
            ended_requests: 0.0,
        };
        let had_lost_gpus = !agent.lost_gpus.is_empty();
        let mut new_epoch = false;
        // Reports before a snapshot that it does not renew.
        let mut gone = HashMap::new();
        for change in changes(&received.frame) {
            match change {
                Change::Reset { epoch } => {
                    new_epoch = std::mem::replace(&mut agent.epoch, epoch) != epoch;
                    agent.lost_gpus.clear();
                    gone = std::mem::take(&mut agent.reports);
                }
                Change::Node(node) => agent.node.clone_from(&node.name),
                Change::GpuRemoved(uuid) => {
                    agent.lost_gpus.remove(uuid);
                }
                Change::Gpu(gpu) => agent.take_gpu(gpu),
                Change::EndpointRemoved(key) => {
                    if let Some(address) = address_of(key)
                        && let Some(report) = agent.reports.remove(&address)
                    {
                        slots.forget(address, &report);
                    }
                }
                Change::Endpoint(endpoint) => {
                    if let Some(address) = agent.take_endpoint(endpoint, received, new_epoch, &mut slots) {
                        gone.remove(&address);
                    }
                }
                Change::KernelConfirmed { measured_boottime_ns } => {
                    agent.kernel_still_holds(measured_boottime_ns, received, &mut slots);
                }
                Change::GpusConfirmed { .. } => {}
                Change::EngineConfirmed(engine) => agent.engine_still_holds(engine, received, &mut slots),
            }
        }
        for (address, report) in gone {
            slots.forget(address, &report);
        }
        if had_lost_gpus || !agent.lost_gpus.is_empty() {
            agent.mark_lost_gpus(received.at + self.stale_after, &mut slots);
        }
        let Members { touched, restarted, generated_tokens, ended_requests, .. } = slots;
        for index in restarted {
            self.prefixes.clear(state.endpoints[index].slot);
        }
        state.count_output(generated_tokens, ended_requests);
        let is_due = received.at.saturating_duration_since(state.priors_at) >= PRIORS_INTERVAL;
        if is_due {
            state.compute_priors(received.at);
            for endpoint in &state.endpoints {
                let blocks =
                    endpoint.engine.capacity_bytes().map(|bytes| (bytes / BLOCK_BYTES as f64) as usize);
                self.prefixes.set_capacity(endpoint.slot, blocks);
            }
        }
        let all = 0..if is_due { state.endpoints.len() } else { 0 };
        for index in touched.into_iter().chain(all) {
            self.publish(state, index);
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

    /// Chooses one of the best endpoints and adds a pick to it, so that the next pick sees it. `rank` orders the indexes of
    /// `snapshot` by their current numbers, best first. `None`: all of them are gone.
    pub(crate) fn reserve(
        &self,
        snapshot: &Arc<Snapshot>,
        now: Instant,
        rank: impl FnOnce(&Snapshot) -> usize,
        work: impl FnOnce(usize) -> Work,
    ) -> Option<(usize, PickId, Option<Duration>)> {
        let state = &mut *self.lock();
        let best = rank(snapshot);
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

/// The members of the pool, as reports are applied to them.
struct Members<'a> {
    endpoints: &'a mut [EndpointState],
    by_address: &'a foldhash::HashMap<SocketAddr, usize>,
    priors: Priors,
    /// Members whose state changed.
    touched: Vec<usize>,
    /// Members whose engine restarted.
    restarted: Vec<usize>,
    generated_tokens: f64,
    ended_requests: f64,
}

impl Members<'_> {
    /// The member that the report is about.
    fn of(&mut self, address: SocketAddr, report: &Report) -> Option<&mut EndpointState> {
        let index = *self.by_address.get(&address)?;
        let endpoint = self.endpoints.get_mut(index).filter(|endpoint| report.is_about(endpoint))?;
        self.touched.push(index);
        Some(endpoint)
    }

    fn set_engine(&mut self, address: SocketAddr, report: &Report, engine: Option<EngineGauges>) {
        let Some(endpoint) = self.of(address, report) else { return };
        let reading = endpoint.set_engine(engine);
        self.generated_tokens += reading.generated_tokens;
        self.ended_requests += reading.ended_requests;
        if reading.has_restarted {
            self.restarted.extend(self.touched.last());
        }
    }

    fn forget(&mut self, address: SocketAddr, report: &Report) {
        let priors = self.priors;
        if let Some(endpoint) = self.of(address, report) {
            endpoint.set_kernel(None, false, &priors);
            endpoint.set_engine(None);
            endpoint.set_gpu_lost_until(None);
        }
    }
}

impl Report {
    /// Compares the uid, because the address may have belonged to an earlier pod. Pods of a folder may have no uid.
    fn is_about(&self, state: &EndpointState) -> bool {
        self.uid.is_empty() || state.endpoint.uid.is_empty() || self.uid == state.endpoint.uid
    }
}

impl Agent {
    fn take_gpu(&mut self, gpu: &v1::Gpu) {
        if gpu.health() != GpuHealth::Lost {
            self.lost_gpus.remove(&gpu.uuid);
        } else if self.lost_gpus.len() < MAX_GPUS_PER_AGENT {
            self.lost_gpus.insert(gpu.uuid.clone());
        }
    }

    fn has_lost(&self, report: &Report) -> bool {
        report.gpu_uuids.iter().any(|uuid| self.lost_gpus.contains(uuid))
    }

    fn on_frame(&mut self, at: Instant) {
        self.connected = true;
        self.reported_down = false;
        self.last_frame = Some(at);
    }

    fn mark_lost_gpus(&self, until: Instant, members: &mut Members<'_>) {
        for (address, report) in &self.reports {
            if let Some(endpoint) = members.of(*address, report) {
                endpoint.set_gpu_lost_until(self.has_lost(report).then_some(until));
            }
        }
    }

    /// Applies the report on one endpoint. Returns its address, or `None` if the report is invalid or over the limit.
    fn take_endpoint(
        &mut self,
        endpoint: &v1::Endpoint,
        received: &Received,
        new_epoch: bool,
        members: &mut Members<'_>,
    ) -> Option<SocketAddr> {
        let key = endpoint.key.as_ref()?;
        let address = address_of(key)?;
        if self.reports.len() >= MAX_ENDPOINTS_PER_AGENT && !self.reports.contains_key(&address) {
            return None;
        }
        let kernel = endpoint.kernel.as_ref().and_then(|kernel| {
            let measured = received.local_time(kernel.measured_boottime_ns)?;
            Some(KernelCount {
                in_flight: kernel.in_flight,
                started: kernel.started,
                waiting_bytes: kernel.waiting_request_bytes,
                bytes_in: kernel.bytes_in,
                bytes_out: kernel.bytes_out,
                chunks: kernel.chunks,
                opaque_connections: kernel.opaque_connections,
                measured,
            })
        });
        let engine = endpoint.engine.as_ref().and_then(|engine| {
            let measured = received.local_time(engine.measured_boottime_ns)?;
            Some(engine_gauges(engine, measured))
        });
        let report = Report { uid: key.uid.clone(), kernel, engine, gpu_uuids: endpoint.gpu_uuids.clone() };
        let priors = members.priors;
        if let Some(member) = members.of(address, &report) {
            member.set_kernel(kernel, new_epoch, &priors);
            if !self.has_lost(&report) {
                member.set_gpu_lost_until(None);
            }
        }
        members.set_engine(address, &report, engine);
        self.reports.insert(address, report);
        Some(address)
    }

    fn kernel_still_holds(
        &mut self,
        measured_boottime_ns: u64,
        received: &Received,
        members: &mut Members<'_>,
    ) {
        let Some(measured) = received.local_time(measured_boottime_ns) else { return };
        for (address, report) in &mut self.reports {
            if let Some(kernel) = &mut report.kernel {
                kernel.measured = kernel.measured.max(measured);
            }
            if let Some(endpoint) = members.of(*address, report) {
                endpoint.confirm_kernel(measured);
            }
        }
    }

    fn engine_still_holds(&mut self, age: &v1::EngineAge, received: &Received, members: &mut Members<'_>) {
        let measured = received.local_time(age.measured_boottime_ns);
        if let (Some(address), Some(measured)) = (age.key.as_ref().and_then(address_of), measured)
            && let Some(report) = self.reports.get_mut(&address)
        {
            if let Some(engine) = &mut report.engine {
                engine.measured = engine.measured.max(measured);
            }
            if let Some(endpoint) = members.of(address, report) {
                endpoint.confirm_engine(measured);
            }
        }
    }
}

fn engine_gauges(engine: &v1::EngineLoad, measured: Instant) -> EngineGauges {
    let (block_size, blocks) = (engine.block_size_tokens, engine.num_gpu_blocks);
    EngineGauges {
        running: engine.running,
        waiting: engine.waiting,
        kv_usage: engine.kv_cache_usage,
        prompt_tokens: engine.prompt_tokens,
        prefix_queries: engine.prefix_cache_queries,
        prefix_hits: engine.prefix_cache_hits,
        generated_tokens: engine.generation_tokens,
        ended_requests: engine.requests_succeeded,
        cache_tokens: block_size.zip(blocks).map(|(size, count)| u64::from(size) * u64::from(count)),
        measured,
    }
}

fn address_of(key: &v1::EndpointKey) -> Option<SocketAddr> {
    Some(SocketAddr::new(key.ip.parse().ok()?, u16::try_from(key.port).ok()?))
}
