//! The agent's current state, from which all streams are served.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{LatencyHistograms, RequestFeed, latencies::Latencies};
use crate::kernel::DropCounters;
use forebay_telemetry::v1::{
    Delta, Endpoint, EndpointKey, EngineAge, EngineLoad, Gpu, Heartbeat, Histogram, KernelLoad, Liveness,
    Node, Snapshot,
};

/// Maximum bytes of the names of all models in a frame, and of those of adapters in use. A reader that takes nothing keeps a frame in memory, and there may
/// be hundreds.
const MAX_FRAME_NAME_BYTES: usize = 256 << 10;

/// Counters and gauges of one endpoint at one time, or why there are none.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadReport<T> {
    /// The values.
    Measured(T),
    /// The reason, as one line for an operator.
    Off(String),
}

/// The current state of the node. The agent's tasks write it. Every change increments a version, and a reader takes all
/// changes after the version it has: a slow reader skips old values, never the newest.
#[derive(Debug)]
pub struct Publisher {
    /// Held for a few map operations, never across an await.
    state: Mutex<State>,
    version: watch::Sender<u64>,
    requests: RequestFeed,
}

#[derive(Debug)]
pub(super) struct State {
    version: u64,
    node: Versioned<Node>,
    endpoints: BTreeMap<SocketAddr, Versioned<Endpoint>>,
    latencies: Latencies,
    gpus: BTreeMap<String, Versioned<Gpu>>,
    /// Version of the last change in the set of endpoints or GPUs.
    membership_version: u64,
    kernel_confirmed_ns: Option<u64>,
    gpu_confirmed_ns: Option<u64>,
    drop_counters: Option<DropCounters>,
    /// Of the endpoints.
    histograms: BTreeMap<SocketAddr, Arc<LatencyHistograms>>,
}

#[derive(Debug)]
struct Versioned<T> {
    value: T,
    version: u64,
}

impl Publisher {
    /// A state with a node and no endpoints.
    pub fn new(node: Node) -> Self {
        let state = State {
            version: 1,
            node: Versioned { value: node, version: 1 },
            endpoints: BTreeMap::new(),
            latencies: Latencies::default(),
            gpus: BTreeMap::new(),
            membership_version: 1,
            kernel_confirmed_ns: None,
            gpu_confirmed_ns: None,
            drop_counters: None,
            histograms: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), version: watch::Sender::new(1), requests: RequestFeed::default() }
    }

    /// Returns a receiver that changes with every version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The requests that end, which are not part of the state.
    pub fn requests(&self) -> &RequestFeed {
        &self.requests
    }

    /// Changes the node.
    pub fn set_node(&self, change: impl FnOnce(&mut Node)) {
        self.update(|state, version| {
            let mut node = state.node.value.clone();
            change(&mut node);
            state.node.replace(node, version)
        });
    }

    /// Sets the endpoints. Those that stay keep their values.
    pub fn set_endpoints(&self, endpoints: BTreeMap<SocketAddr, EndpointKey>) {
        self.update(|state, version| {
            let before = state.endpoints.len();
            state.endpoints.retain(|address, entry| {
                endpoints.get(address).is_some_and(|key| entry.value.key.as_ref() == Some(key))
            });
            let State { endpoints: kept, histograms, latencies, .. } = &mut *state;
            histograms.retain(|address, _| kept.contains_key(address));
            latencies.retain(|address| kept.contains_key(address));
            let mut changed = state.endpoints.len() != before;
            for (address, key) in endpoints {
                state.endpoints.entry(address).or_insert_with(|| {
                    changed = true;
                    let value = Endpoint { key: Some(key), ..Endpoint::default() };
                    Versioned { value, version }
                });
            }
            if changed {
                state.membership_version = version;
            }
            changed
        });
    }

    /// Sets the kernel values of an endpoint. No effect if another pod has the address now.
    pub fn set_kernel(&self, address: SocketAddr, uid: &str, report: LoadReport<KernelLoad>) {
        self.update_endpoint(address, uid, |endpoint| {
            let known = (&mut endpoint.kernel, &mut endpoint.kernel_off);
            replace(known, split(report), |load| &mut load.measured_boottime_ns)
        });
    }

    /// Sets the kernel values of an endpoint, and the distributions of TTFT, ITL and duration in its latency window. No effect
    /// if another pod has the address now.
    pub fn set_kernel_window(
        &self,
        address: SocketAddr,
        uid: &str,
        report: LoadReport<KernelLoad>,
        latencies: &[Histogram; 3],
    ) {
        self.update(|state, version| {
            let State { endpoints, latencies: known, .. } = state;
            let Some(entry) = endpoints.get_mut(&address).filter(|entry| is_of(&entry.value, uid)) else {
                return false;
            };
            let endpoint = &mut entry.value;
            let load = (&mut endpoint.kernel, &mut endpoint.kernel_off);
            let is_new_load = replace(load, split(report), |load| &mut load.measured_boottime_ns);
            if is_new_load {
                entry.version = version;
            }
            known.replace(address, &entry.value.key, latencies, version) || is_new_load
        });
    }

    /// Sets the engine values of an endpoint. No effect if another pod has the address now.
    pub fn set_engine(&self, address: SocketAddr, uid: &str, report: LoadReport<EngineLoad>) {
        self.update_endpoint(address, uid, |endpoint| {
            let known = (&mut endpoint.engine, &mut endpoint.engine_off);
            replace(known, split(report), |load| &mut load.measured_boottime_ns)
        });
    }

    /// Sets the verdict of `judge` on each endpoint. It gets the utilization of the endpoint's busiest GPU, in percent, if
    /// that of all its GPUs is known.
    pub fn set_liveness(
        &self,
        mut judge: impl FnMut(SocketAddr, &Endpoint, Option<u32>) -> Option<Liveness>,
    ) {
        self.update(|state, version| {
            let State { endpoints, gpus, .. } = state;
            let mut changed = false;
            for (address, entry) in endpoints {
                let liveness = judge(*address, &entry.value, utilization(&entry.value, gpus));
                if entry.value.liveness != liveness {
                    entry.value.liveness = liveness;
                    entry.version = version;
                    changed = true;
                }
            }
            changed
        });
    }

    /// CLOCK_BOOTTIME of the last successful scrape of an endpoint.
    pub fn scraped_ns(&self, address: SocketAddr, uid: &str) -> Option<u64> {
        let state = self.lock();
        let endpoint = &state.endpoints.get(&address)?.value;
        endpoint.engine.as_ref().filter(|_| is_of(endpoint, uid)).map(|engine| engine.measured_boottime_ns)
    }

    /// Confirms that all kernel values were still valid at this CLOCK_BOOTTIME.
    pub fn confirm_kernel(&self, at_ns: u64) {
        self.lock().kernel_confirmed_ns = Some(at_ns);
    }

    /// Sets the drop counters, which are in the node's metrics only.
    pub fn set_drop_counters(&self, counters: DropCounters) {
        self.lock().drop_counters = Some(counters);
    }

    pub(super) fn drop_counters(&self) -> Option<DropCounters> {
        self.lock().drop_counters
    }

    /// Sets the latency histograms of an endpoint, which are in the node's metrics only. No effect if another pod has the
    /// address now.
    pub fn set_latency_histograms(&self, address: SocketAddr, uid: &str, mut histograms: LatencyHistograms) {
        let mut state = self.lock();
        let Some(endpoint) = state.endpoints.get(&address).map(|entry| &entry.value) else { return };
        if !is_of(endpoint, uid) {
            return;
        }
        // What was known stays while the engine does not respond: a series must not change its labels.
        histograms.model = match endpoint.engine.as_ref().filter(|engine| !engine.models.is_empty()) {
            Some(engine) => only_model(engine),
            None => state.histograms.get(&address).and_then(|known| known.model.clone()),
        };
        state.histograms.insert(address, Arc::new(histograms));
    }

    pub(super) fn latency_histograms(&self) -> BTreeMap<SocketAddr, Arc<LatencyHistograms>> {
        self.lock().histograms.clone()
    }

    /// Sets the GPUs, the GPUs that each endpoint uses, and the time of the measurement.
    pub fn set_gpus(&self, gpus: Vec<Gpu>, used_by: &BTreeMap<SocketAddr, Vec<String>>, at_ns: Option<u64>) {
        self.update(|state, version| {
            state.gpu_confirmed_ns = at_ns;
            let gpus_changed = state.replace_gpus(gpus, version);
            state.replace_gpu_users(used_by, version) || gpus_changed
        });
    }

    /// Returns the whole state, without latency histograms, and its version.
    pub fn snapshot(&self) -> (Snapshot, u64) {
        self.snapshot_with(false)
    }

    pub(super) fn snapshot_with(&self, latencies: bool) -> (Snapshot, u64) {
        let state = self.lock();
        let share = state.name_share();
        let snapshot = Snapshot {
            node: Some(state.node.value.clone()),
            endpoints: state.endpoints.values().map(|entry| within(&entry.value, share)).collect(),
            gpus: state.gpus.values().map(|entry| entry.value.clone()).collect(),
            latencies: if latencies { state.latencies.counted() } else { Vec::new() },
        };
        (snapshot, state.version)
    }

    /// Returns everything that was added or changed after version `seen`, and all members if any was added or removed. Latency
    /// histograms only if `latencies`.
    pub(super) fn changes(&self, seen: u64, latencies: bool) -> Changes {
        let state = self.lock();
        let newer = |version: u64| version > seen;
        let share = state.name_share();
        let delta = Delta {
            node: newer(state.node.version).then(|| state.node.value.clone()),
            endpoints: state
                .endpoints
                .values()
                .filter(|entry| newer(entry.version))
                .map(|entry| within(&entry.value, share))
                .collect(),
            gpus: state
                .gpus
                .values()
                .filter(|entry| newer(entry.version))
                .map(|entry| entry.value.clone())
                .collect(),
            latencies: if latencies { state.latencies.changed_since(seen) } else { Vec::new() },
            ..Delta::default()
        };
        let members = newer(state.membership_version).then(|| Members {
            endpoints: state.endpoints.values().filter_map(|entry| entry.value.key.clone()).collect(),
            gpu_uuids: state.gpus.keys().cloned().collect(),
        });
        Changes { delta, members, version: state.version }
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        let state = self.lock();
        Heartbeat {
            kernel_measured_boottime_ns: state.kernel_confirmed_ns,
            gpu_measured_boottime_ns: state.gpu_confirmed_ns,
            engines: state
                .endpoints
                .values()
                .filter_map(|entry| {
                    Some(EngineAge {
                        key: entry.value.key.clone(),
                        measured_boottime_ns: entry.value.engine.as_ref()?.measured_boottime_ns,
                    })
                })
                .collect(),
        }
    }

    /// `change` returns whether it has changed a value other than a time of measurement: those of unchanged values are in the
    /// heartbeats.
    fn update_endpoint(&self, address: SocketAddr, uid: &str, change: impl FnOnce(&mut Endpoint) -> bool) {
        self.update(|state, version| {
            let Some(entry) = state.endpoints.get_mut(&address) else { return false };
            if !is_of(&entry.value, uid) {
                return false;
            }
            let changed = change(&mut entry.value);
            if changed {
                entry.version = version;
            }
            changed
        });
    }

    /// Applies a change under the next version. The version is published only if `change` returns `true`.
    fn update(&self, change: impl FnOnce(&mut State, u64) -> bool) {
        let mut state = self.lock();
        let version = state.version + 1;
        if change(&mut state, version) {
            state.version = version;
            drop(state);
            self.version.send_replace(version);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes since a version.
pub(super) struct Changes {
    /// Without removals, which the reader derives from `members`.
    pub(super) delta: Delta,
    /// All members, if any was added or removed.
    pub(super) members: Option<Members>,
    pub(super) version: u64,
}

pub(super) struct Members {
    pub(super) endpoints: Vec<EndpointKey>,
    pub(super) gpu_uuids: Vec<String>,
}

impl State {
    /// Bytes of model names that each endpoint may have in a frame.
    fn name_share(&self) -> usize {
        MAX_FRAME_NAME_BYTES / self.endpoints.len().max(1)
    }

    fn replace_gpus(&mut self, gpus: Vec<Gpu>, version: u64) -> bool {
        let before = self.gpus.len();
        self.gpus.retain(|uuid, _| gpus.iter().any(|gpu| gpu.uuid == *uuid));
        let mut members_changed = self.gpus.len() != before;
        let mut values_changed = false;
        for gpu in gpus {
            match self.gpus.get_mut(&gpu.uuid) {
                Some(entry) => {
                    let measured_boottime_ns = entry.value.measured_boottime_ns;
                    if (Gpu { measured_boottime_ns, ..gpu.clone() }) != entry.value {
                        *entry = Versioned { value: gpu, version };
                        values_changed = true;
                    }
                }
                None => {
                    self.gpus.insert(gpu.uuid.clone(), Versioned { value: gpu, version });
                    members_changed = true;
                }
            }
        }
        if members_changed {
            self.membership_version = version;
        }
        members_changed || values_changed
    }

    fn replace_gpu_users(&mut self, used_by: &BTreeMap<SocketAddr, Vec<String>>, version: u64) -> bool {
        let mut changed = false;
        for (address, entry) in &mut self.endpoints {
            let gpu_uuids = used_by.get(address).cloned().unwrap_or_default();
            if entry.value.gpu_uuids != gpu_uuids {
                entry.value.gpu_uuids = gpu_uuids;
                entry.version = version;
                changed = true;
            }
        }
        changed
    }
}

impl<T: PartialEq> Versioned<T> {
    fn replace(&mut self, value: T, version: u64) -> bool {
        if self.value == value {
            return false;
        }
        *self = Self { value, version };
        true
    }
}

/// Whether an endpoint is of the pod with this uid.
fn is_of(endpoint: &Endpoint, uid: &str) -> bool {
    endpoint.key.as_ref().is_some_and(|key| key.uid == uid)
}

/// A copy with as many models, and adapters in use, as the share of names allows.
fn within(endpoint: &Endpoint, share: usize) -> Endpoint {
    let mut endpoint = endpoint.clone();
    if let Some(engine) = &mut endpoint.engine {
        let mut bytes = 0;
        let all = engine.models.len();
        engine.models.retain(|model| {
            bytes += model.id.len() + model.parent.as_ref().map_or(0, String::len);
            bytes <= share
        });
        let omitted = u32::try_from(all - engine.models.len()).unwrap_or(u32::MAX);
        engine.models_omitted = engine.models_omitted.saturating_add(omitted);
        if let Some(adapters) = &mut engine.adapters {
            let mut bytes = 0;
            let mut omitted = 0_u32;
            let mut is_kept = |name: &String| {
                bytes += name.len();
                omitted += u32::from(bytes > share);
                bytes <= share
            };
            adapters.running.retain(&mut is_kept);
            adapters.waiting.retain(&mut is_kept);
            adapters.omitted = adapters.omitted.saturating_add(omitted);
        }
    }
    endpoint
}

/// The model that the engine serves, if it is the only one: the kernel does not see which model a request names.
fn only_model(engine: &EngineLoad) -> Option<String> {
    match engine.models.as_slice() {
        [model] if engine.models_omitted == 0 => Some(model.id.clone()),
        _ => None,
    }
}

fn utilization(endpoint: &Endpoint, gpus: &BTreeMap<String, Versioned<Gpu>>) -> Option<u32> {
    let percent = |uuid: &String| gpus.get(uuid)?.value.utilization_percent;
    let all: Option<Vec<u32>> = endpoint.gpu_uuids.iter().map(percent).collect();
    all?.into_iter().max()
}

fn split<T>(report: LoadReport<T>) -> (Option<T>, Option<String>) {
    match report {
        LoadReport::Measured(value) => (Some(value), None),
        LoadReport::Off(reason) => (None, Some(reason)),
    }
}

/// Replaces values, or why there are none. Returns whether they differ in more than their times of measurement.
fn replace<T: PartialEq>(
    (known, known_off): (&mut Option<T>, &mut Option<String>),
    (mut new, off): (Option<T>, Option<String>),
    measured_ns: impl Fn(&mut T) -> &mut u64,
) -> bool {
    if let (Some(known), Some(new)) = (known.as_mut(), new.as_mut()) {
        *measured_ns(known) = *measured_ns(new);
    }
    let changed = *known != new || *known_off != off;
    (*known, *known_off) = (new, off);
    changed
}
