//! The state of all endpoints of a pool, and the agents' reports that update it.
//!
//! One lock guards all of it. Picks and reports hold it for microseconds and never across an await. A pick therefore sees
//! every earlier pick, and never a part of a report.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use forebay_resources::PoolEndpoint;
use forebay_telemetry::{
    Change, changes,
    client::Received,
    v1::{self, GpuHealth},
};

use super::{
    ledger::PickId,
    state::{EndpointState, EngineGauges, KernelCount},
    view::{AgentView, EndpointView},
};

/// Maximum endpoints accepted per agent. Further ones are ignored.
const MAX_ENDPOINTS_PER_AGENT: usize = 4096;
/// Maximum lost GPUs accepted per agent. Further ones are ignored.
const MAX_GPUS_PER_AGENT: usize = 1024;

/// The endpoints of a pool with their load. Shared by the scheduler and the tasks that update it.
#[derive(Debug)]
pub struct Endpoints {
    state: Mutex<PoolState>,
    /// Maximum age of a report since it was last confirmed.
    stale_after: Duration,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct PoolState {
    pool_exists: bool,
    endpoints: Vec<EndpointState>,
    /// Index in `endpoints`.
    by_address: foldhash::HashMap<SocketAddr, usize>,
    agents: HashMap<SocketAddr, Agent>,
    next_pick: u64,
    /// Index of the last pick. Endpoints with equal scores take turns from there.
    cursor: usize,
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
        let state = PoolState {
            pool_exists: false,
            endpoints: Vec::new(),
            by_address: foldhash::HashMap::default(),
            agents: HashMap::new(),
            next_pick: 0,
            // Random, so that replicas of a picker do not all start with the same endpoint.
            cursor: fastrand::usize(..),
        };
        Self { state: Mutex::new(state), stale_after }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stale_after(&self) -> Duration {
        self.stale_after
    }

    /// Replaces the members of the pool. `None` if the pool does not exist. Endpoints of the same pod keep their load and
    /// their picks.
    pub fn set_members(&self, members: Option<Vec<PoolEndpoint>>) {
        let state = &mut *self.lock();
        state.pool_exists = members.is_some();
        let mut old: HashMap<SocketAddr, EndpointState> =
            state.endpoints.drain(..).map(|old| (old.endpoint.address, old)).collect();
        state.by_address.clear();
        for endpoint in members.unwrap_or_default() {
            let address = endpoint.address;
            if state.by_address.contains_key(&address) {
                tracing::warn!(%address, pod = %endpoint.pod, "two pods of the pool have the same address; ignoring the second pod");
                continue;
            }
            let kept = old
                .remove(&address)
                .filter(|it| it.endpoint.pod == endpoint.pod && it.endpoint.uid == endpoint.uid);
            let member = match kept {
                Some(mut kept) => {
                    kept.endpoint = endpoint;
                    kept
                }
                None => state.new_endpoint(endpoint, self.stale_after),
            };
            state.by_address.insert(address, state.endpoints.len());
            state.endpoints.push(member);
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
        let mut slots = Members { endpoints: &mut state.endpoints, by_address: &state.by_address };
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
        self.lock().endpoints.iter().map(|it| it.view(now, self.stale_after)).collect()
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

    /// The request of the pick ended.
    pub(crate) fn release(&self, address: SocketAddr, pick: PickId) {
        if let Some(endpoint) = self.lock().endpoint_mut(address) {
            endpoint.remove_pick(pick);
        }
    }

    /// The request was served by `to` instead of `from`.
    pub(crate) fn move_pick(&self, pick: PickId, from: SocketAddr, to: SocketAddr) {
        let mut state = self.lock();
        let picked_at = state.endpoint_mut(from).and_then(|endpoint| endpoint.remove_pick(pick));
        if let (Some(picked_at), Some(endpoint)) = (picked_at, state.endpoint_mut(to)) {
            endpoint.add_served(pick, picked_at);
        }
    }
}

impl PoolState {
    pub(crate) fn pool_exists(&self) -> bool {
        self.pool_exists
    }

    /// All endpoints with their index, in round-robin order: the endpoint of the last pick comes last.
    pub(crate) fn round_robin(&mut self) -> impl Iterator<Item = (usize, &mut EndpointState)> {
        let (before, after) = match self.endpoints.len() {
            0 => self.endpoints.split_at_mut(0),
            count => self.endpoints.split_at_mut((self.cursor % count + 1) % count),
        };
        let first = before.len();
        let after = after.iter_mut().enumerate().map(move |(index, endpoint)| (index + first, endpoint));
        after.chain(before.iter_mut().enumerate())
    }

    pub(crate) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.endpoints.get(index).map(|it| it.endpoint.address)
    }

    /// Adds a pick to the endpoint, so that the next pick sees it.
    pub(crate) fn reserve(&mut self, index: usize, now: Instant) -> PickId {
        let pick = PickId(self.next_pick);
        self.next_pick += 1;
        self.cursor = index;
        if let Some(endpoint) = self.endpoints.get_mut(index) {
            endpoint.add_pick(pick, now);
        }
        pick
    }

    fn endpoint_mut(&mut self, address: SocketAddr) -> Option<&mut EndpointState> {
        self.endpoints.get_mut(*self.by_address.get(&address)?)
    }

    /// A new member, with the load that an agent may have reported before the pod became a member.
    fn new_endpoint(&self, endpoint: PoolEndpoint, stale_after: Duration) -> EndpointState {
        let mut member = EndpointState::new(endpoint);
        let address = member.endpoint.address;
        for agent in self.agents.values() {
            if let Some(report) = agent.reports.get(&address).filter(|report| report.is_about(&member)) {
                member.set_kernel(report.kernel, false);
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
}

impl Members<'_> {
    /// The member that the report is about.
    fn of(&mut self, address: SocketAddr, report: &Report) -> Option<&mut EndpointState> {
        let endpoint = self.endpoints.get_mut(*self.by_address.get(&address)?)?;
        report.is_about(endpoint).then_some(endpoint)
    }

    fn forget(&mut self, address: SocketAddr, report: &Report) {
        if let Some(endpoint) = self.of(address, report) {
            endpoint.set_kernel(None, false);
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
            Some(KernelCount { in_flight: kernel.in_flight, started: kernel.started, measured })
        });
        let engine = endpoint.engine.as_ref().and_then(|engine| {
            let measured = received.local_time(engine.measured_boottime_ns)?;
            Some(EngineGauges { running: engine.running, waiting: engine.waiting, measured })
        });
        let report = Report { uid: key.uid.clone(), kernel, engine, gpu_uuids: endpoint.gpu_uuids.clone() };
        if let Some(member) = members.of(address, &report) {
            member.set_kernel(kernel, new_epoch);
            member.set_engine(engine);
            if !self.has_lost(&report) {
                member.set_gpu_lost_until(None);
            }
        }
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

fn address_of(key: &v1::EndpointKey) -> Option<SocketAddr> {
    Some(SocketAddr::new(key.ip.parse().ok()?, u16::try_from(key.port).ok()?))
}
