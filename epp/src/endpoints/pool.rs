//! The pool's slots, and the agents' reports that fill them.
//!
//! One lock guards all of it. Picks and reports hold it for microseconds and
//! never across an await; in return a pick sees every earlier pick, and never
//! half a report.

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
    AgentView, EndpointView,
    ledger::PickId,
    slot::{EngineGauges, KernelCount, Slot},
};

/// What one agent may make us remember; a node runs far less.
const MAX_ENDPOINTS_PER_AGENT: usize = 4096;
const MAX_GPUS_PER_AGENT: usize = 1024;

/// The pool's endpoints with their load. Shared by everyone who picks, and by
/// the tasks that keep it current.
#[derive(Debug)]
pub struct Endpoints {
    table: Mutex<Table>,
    /// How long a report may be used after it was last known to hold.
    stale_after: Duration,
}

#[derive(Debug)]
pub(crate) struct Table {
    pool_exists: bool,
    slots: Vec<Slot>,
    by_address: foldhash::HashMap<SocketAddr, usize>,
    agents: HashMap<SocketAddr, Agent>,
    next_pick: u64,
    /// Where the last pick went: equals take turns from there.
    cursor: usize,
}

/// What one agent has said. Kept whole, because a pod may become a member of
/// the pool long after its agent last spoke of it.
#[derive(Debug, Default)]
struct Agent {
    node: String,
    connected: bool,
    /// Since the newest frame.
    reported_down: bool,
    epoch: u64,
    last_frame: Option<Instant>,
    reports: HashMap<SocketAddr, Report>,
    lost_gpus: HashSet<String>,
}

#[derive(Clone, Debug)]
struct Report {
    uid: String,
    kernel: Option<KernelCount>,
    engine: Option<EngineGauges>,
    gpu_uuids: Vec<String>,
}

impl Endpoints {
    pub fn new(stale_after: Duration) -> Self {
        let table = Table {
            pool_exists: false,
            slots: Vec::new(),
            by_address: foldhash::HashMap::default(),
            agents: HashMap::new(),
            next_pick: 0,
            // Several replicas must not all begin with the same endpoint.
            cursor: fastrand::usize(..),
        };
        Self { table: Mutex::new(table), stale_after }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stale_after(&self) -> Duration {
        self.stale_after
    }

    /// The pool's members from now on; `None` when there is no such pool. An
    /// endpoint that stays keeps its load and its picks.
    pub fn set_members(&self, members: Option<Vec<PoolEndpoint>>) {
        let table = &mut *self.lock();
        table.pool_exists = members.is_some();
        let mut old: HashMap<SocketAddr, Slot> =
            table.slots.drain(..).map(|slot| (slot.endpoint.address, slot)).collect();
        table.by_address.clear();
        for endpoint in members.unwrap_or_default() {
            let address = endpoint.address;
            if table.by_address.contains_key(&address) {
                tracing::warn!(%address, pod = %endpoint.pod, "two pods of the pool have the same address; the first one is used");
                continue;
            }
            let kept = old
                .remove(&address)
                .filter(|it| it.endpoint.pod == endpoint.pod && it.endpoint.uid == endpoint.uid);
            let slot = match kept {
                Some(mut slot) => {
                    slot.endpoint = endpoint;
                    slot
                }
                None => table.new_slot(endpoint, self.stale_after),
            };
            table.by_address.insert(address, table.slots.len());
            table.slots.push(slot);
        }
    }

    /// Reports of this agent count from now on.
    pub fn add_agent(&self, agent: SocketAddr) {
        self.lock().agents.entry(agent).or_default();
    }

    /// Takes in what a known agent sent.
    pub fn apply(&self, agent_address: SocketAddr, received: &Received) {
        let table = &mut *self.lock();
        let Some(agent) = table.agents.get_mut(&agent_address) else { return };
        agent.connected = true;
        agent.reported_down = false;
        agent.last_frame = Some(received.at);
        let mut slots = Slots { slots: &mut table.slots, by_address: &table.by_address };
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

    /// The agent's stream has ended; what it said goes on until it is stale.
    /// Returns whether that is news.
    pub fn agent_down(&self, agent: SocketAddr) -> bool {
        let mut table = self.lock();
        let Some(agent) = table.agents.get_mut(&agent) else { return false };
        agent.connected = false;
        !std::mem::replace(&mut agent.reported_down, true)
    }

    /// The agent is no more, and its reports count no longer than they are fresh.
    pub fn remove_agent(&self, agent: SocketAddr) {
        self.lock().agents.remove(&agent);
    }

    pub fn endpoints(&self) -> Vec<EndpointView> {
        let now = Instant::now();
        self.lock().slots.iter().map(|slot| slot.view(now, self.stale_after)).collect()
    }

    pub fn agents(&self) -> Vec<AgentView> {
        let now = Instant::now();
        let table = self.lock();
        let views = table.agents.iter().map(|(address, agent)| AgentView {
            address: *address,
            node: agent.node.clone(),
            connected: agent.connected,
            frame_age: agent.last_frame.map(|at| now.saturating_duration_since(at)),
        });
        views.collect()
    }

    pub(crate) fn release(&self, address: SocketAddr, pick: PickId) {
        if let Some(slot) = self.lock().slot_mut(address) {
            slot.remove_pick(pick);
        }
    }

    /// The request went to `to` instead of `from`.
    pub(crate) fn move_pick(&self, pick: PickId, from: SocketAddr, to: SocketAddr) {
        let mut table = self.lock();
        let made = table.slot_mut(from).and_then(|slot| slot.remove_pick(pick));
        if let (Some(made), Some(slot)) = (made, table.slot_mut(to)) {
            slot.add_served(pick, made);
        }
    }
}

impl Table {
    pub(crate) fn pool_exists(&self) -> bool {
        self.pool_exists
    }

    /// All slots with their index, from the one after the last pick round to it.
    pub(crate) fn in_turn(&mut self) -> impl Iterator<Item = (usize, &mut Slot)> {
        let (before, after) = match self.slots.len() {
            0 => self.slots.split_at_mut(0),
            count => self.slots.split_at_mut((self.cursor % count + 1) % count),
        };
        let first = before.len();
        let after = after.iter_mut().enumerate().map(move |(index, slot)| (index + first, slot));
        after.chain(before.iter_mut().enumerate())
    }

    pub(crate) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.slots.get(index).map(|slot| slot.endpoint.address)
    }

    /// Counts a pick against the slot, so that the next pick sees it.
    pub(crate) fn reserve(&mut self, index: usize, now: Instant) -> PickId {
        let pick = PickId(self.next_pick);
        self.next_pick += 1;
        self.cursor = index;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.add_pick(pick, now);
        }
        pick
    }

    fn slot_mut(&mut self, address: SocketAddr) -> Option<&mut Slot> {
        self.slots.get_mut(*self.by_address.get(&address)?)
    }

    /// With what an agent may have said of the pod before it was a member.
    fn new_slot(&self, endpoint: PoolEndpoint, stale_after: Duration) -> Slot {
        let mut slot = Slot::new(endpoint);
        let address = slot.endpoint.address;
        for agent in self.agents.values() {
            if let Some(report) = agent.reports.get(&address).filter(|report| report.is_about(&slot)) {
                slot.set_kernel(report.kernel, false);
                slot.set_engine(report.engine);
                let until = agent.last_frame.filter(|_| agent.has_lost(report)).map(|at| at + stale_after);
                slot.set_gpu_lost_until(until);
            }
        }
        slot
    }
}

/// The slots as reports reach them.
struct Slots<'a> {
    slots: &'a mut [Slot],
    by_address: &'a foldhash::HashMap<SocketAddr, usize>,
}

impl Slots<'_> {
    fn of(&mut self, address: SocketAddr, report: &Report) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(*self.by_address.get(&address)?)?;
        report.is_about(slot).then_some(slot)
    }

    fn forget(&mut self, address: SocketAddr, report: &Report) {
        if let Some(slot) = self.of(address, report) {
            slot.set_kernel(None, false);
            slot.set_engine(None);
            slot.set_gpu_lost_until(None);
        }
    }
}

impl Report {
    /// An address may have belonged to another pod. A folder's pods may have no uid.
    fn is_about(&self, slot: &Slot) -> bool {
        self.uid.is_empty() || slot.endpoint.uid.is_empty() || self.uid == slot.endpoint.uid
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

    fn mark_lost_gpus(&self, until: Instant, slots: &mut Slots<'_>) {
        for (address, report) in &self.reports {
            if let Some(slot) = slots.of(*address, report) {
                slot.set_gpu_lost_until(self.has_lost(report).then_some(until));
            }
        }
    }

    /// Returns the endpoint's address, unless the report cannot be used.
    fn take_endpoint(
        &mut self,
        endpoint: &v1::Endpoint,
        received: &Received,
        new_epoch: bool,
        slots: &mut Slots<'_>,
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
        if let Some(slot) = slots.of(address, &report) {
            slot.set_kernel(kernel, new_epoch);
            slot.set_engine(engine);
            if !self.has_lost(&report) {
                slot.set_gpu_lost_until(None);
            }
        }
        self.reports.insert(address, report);
        Some(address)
    }

    fn kernel_still_holds(&mut self, measured_boottime_ns: u64, received: &Received, slots: &mut Slots<'_>) {
        let Some(measured) = received.local_time(measured_boottime_ns) else { return };
        for (address, report) in &mut self.reports {
            if let Some(kernel) = &mut report.kernel {
                kernel.measured = kernel.measured.max(measured);
            }
            if let Some(slot) = slots.of(*address, report) {
                slot.kernel_still_holds(measured);
            }
        }
    }

    fn engine_still_holds(&mut self, age: &v1::EngineAge, received: &Received, slots: &mut Slots<'_>) {
        let measured = received.local_time(age.measured_boottime_ns);
        if let (Some(address), Some(measured)) = (age.key.as_ref().and_then(address_of), measured)
            && let Some(report) = self.reports.get_mut(&address)
        {
            if let Some(engine) = &mut report.engine {
                engine.measured = engine.measured.max(measured);
            }
            if let Some(slot) = slots.of(address, report) {
                slot.engine_still_holds(measured);
            }
        }
    }
}

fn address_of(key: &v1::EndpointKey) -> Option<SocketAddr> {
    Some(SocketAddr::new(key.ip.parse().ok()?, u16::try_from(key.port).ok()?))
}
