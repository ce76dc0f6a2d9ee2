//! The newest value of everything, each with its age, and what changed since when.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::kernel::Counted;
use forebay_telemetry::v1::{
    Delta, Endpoint, EndpointKey, EngineAge, EngineLoad, Gpu, Heartbeat, KernelLoad, Node, Snapshot,
};

/// A measurement, or the one-line reason why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading<T> {
    On(T),
    Off(String),
}

/// The node's state. Writers are the agent's own tasks; a reader takes what changed
/// since the version it has seen, so a slow one misses old values and no new ones.
#[derive(Debug)]
pub struct Board {
    /// Never held across an await; every section is a few map operations.
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    version: u64,
    node: Versioned<Node>,
    endpoints: BTreeMap<SocketAddr, Versioned<Endpoint>>,
    gpus: BTreeMap<String, Versioned<Gpu>>,
    /// When an endpoint or a GPU last came or went.
    membership_version: u64,
    kernel_confirmed_ns: Option<u64>,
    gpu_confirmed_ns: Option<u64>,
    counted: Option<Counted>,
}

#[derive(Debug)]
struct Versioned<T> {
    value: T,
    version: u64,
}

impl Board {
    pub fn new(node: Node) -> Self {
        let state = State {
            version: 1,
            node: Versioned { value: node, version: 1 },
            endpoints: BTreeMap::new(),
            gpus: BTreeMap::new(),
            membership_version: 1,
            kernel_confirmed_ns: None,
            gpu_confirmed_ns: None,
            counted: None,
        };
        Self { state: Mutex::new(state), version: watch::Sender::new(1) }
    }

    /// Changes with every change of the state.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Changes what is said of the node.
    pub fn set_node(&self, change: impl FnOnce(&mut Node)) {
        self.update(|state, version| {
            let mut node = state.node.value.clone();
            change(&mut node);
            state.node.replace(node, version)
        });
    }

    /// The endpoints there are. Those that stay keep their measurements.
    pub fn set_endpoints(&self, endpoints: BTreeMap<SocketAddr, EndpointKey>) {
        self.update(|state, version| {
            let before = state.endpoints.len();
            state.endpoints.retain(|address, entry| {
                endpoints.get(address).is_some_and(|key| entry.value.key.as_ref() == Some(key))
            });
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

    /// Nothing if another pod has the address by now.
    pub fn set_kernel(&self, address: SocketAddr, uid: &str, reading: Reading<KernelLoad>) {
        self.update_endpoint(address, uid, |endpoint| {
            (endpoint.kernel, endpoint.kernel_off) = split(reading);
        });
    }

    /// Nothing if another pod has the address by now.
    pub fn set_engine(&self, address: SocketAddr, uid: &str, reading: Reading<EngineLoad>) {
        self.update_endpoint(address, uid, |endpoint| {
            (endpoint.engine, endpoint.engine_off) = split(reading);
        });
    }

    /// All kernel values on the board were still so at this CLOCK_BOOTTIME.
    pub fn confirm_kernel(&self, at_ns: u64) {
        self.lock().kernel_confirmed_ns = Some(at_ns);
    }

    /// What the programs could not do, for the node's metrics.
    pub fn set_counted(&self, counted: Counted) {
        self.lock().counted = Some(counted);
    }

    pub(super) fn counted(&self) -> Option<Counted> {
        self.lock().counted
    }

    /// The node's GPUs, and which of them each endpoint's processes use.
    pub fn set_gpus(&self, gpus: Vec<Gpu>, used_by: &BTreeMap<SocketAddr, Vec<String>>, at_ns: Option<u64>) {
        self.update(|state, version| {
            state.gpu_confirmed_ns = at_ns;
            let before = state.gpus.len();
            state.gpus.retain(|uuid, _| gpus.iter().any(|gpu| gpu.uuid == *uuid));
            let mut members_changed = state.gpus.len() != before;
            let mut changed = members_changed;
            for gpu in gpus {
                match state.gpus.get_mut(&gpu.uuid) {
                    Some(entry) => {
                        let same =
                            Gpu { measured_boottime_ns: entry.value.measured_boottime_ns, ..gpu.clone() };
                        if same != entry.value {
                            entry.value = gpu;
                            entry.version = version;
                            changed = true;
                        }
                    }
                    None => {
                        state.gpus.insert(gpu.uuid.clone(), Versioned { value: gpu, version });
                        members_changed = true;
                        changed = true;
                    }
                }
            }
            if members_changed {
                state.membership_version = version;
            }
            for (address, entry) in &mut state.endpoints {
                let gpu_uuids = used_by.get(address).cloned().unwrap_or_default();
                if entry.value.gpu_uuids != gpu_uuids {
                    entry.value.gpu_uuids = gpu_uuids;
                    entry.version = version;
                    changed = true;
                }
            }
            changed
        });
    }

    /// Everything, and the version it is of.
    pub fn snapshot(&self) -> (Snapshot, u64) {
        let state = self.lock();
        let snapshot = Snapshot {
            node: Some(state.node.value.clone()),
            endpoints: state.endpoints.values().map(|entry| entry.value.clone()).collect(),
            gpus: state.gpus.values().map(|entry| entry.value.clone()).collect(),
        };
        (snapshot, state.version)
    }

    /// What came or changed after `seen`, whether anything may have gone, and the
    /// version now.
    pub(super) fn changes(&self, seen: u64) -> Changes {
        let state = self.lock();
        let newer = |version: u64| version > seen;
        let delta = Delta {
            node: newer(state.node.version).then(|| state.node.value.clone()),
            endpoints: state
                .endpoints
                .values()
                .filter(|entry| newer(entry.version))
                .map(|entry| entry.value.clone())
                .collect(),
            gpus: state
                .gpus
                .values()
                .filter(|entry| newer(entry.version))
                .map(|entry| entry.value.clone())
                .collect(),
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

    fn update_endpoint(&self, address: SocketAddr, uid: &str, change: impl FnOnce(&mut Endpoint)) {
        self.update(|state, version| {
            let Some(entry) = state.endpoints.get_mut(&address) else { return false };
            if entry.value.key.as_ref().is_none_or(|key| key.uid != uid) {
                return false;
            }
            let mut next = entry.value.clone();
            change(&mut next);
            let changed = !same_but_for_time(&entry.value, &next);
            entry.value = next;
            if changed {
                entry.version = version;
            }
            changed
        });
    }

    /// Applies a change under the next version, which is told only if `change` says
    /// that something is different.
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

/// The answer to "what is new since".
pub(super) struct Changes {
    pub(super) delta: Delta,
    /// All there are, if any came or went.
    pub(super) members: Option<Members>,
    pub(super) version: u64,
}

pub(super) struct Members {
    pub(super) endpoints: Vec<EndpointKey>,
    pub(super) gpu_uuids: Vec<String>,
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

fn split<T>(reading: Reading<T>) -> (Option<T>, Option<String>) {
    match reading {
        Reading::On(value) => (Some(value), None),
        Reading::Off(reason) => (None, Some(reason)),
    }
}

/// A value measured again and found the same is no change; heartbeats carry its age.
fn same_but_for_time(before: &Endpoint, after: &Endpoint) -> bool {
    let mut before = before.clone();
    if let (Some(before), Some(after)) = (&mut before.kernel, &after.kernel) {
        before.measured_boottime_ns = after.measured_boottime_ns;
    }
    if let (Some(before), Some(after)) = (&mut before.engine, &after.engine) {
        before.measured_boottime_ns = after.measured_boottime_ns;
    }
    before == *after
}
