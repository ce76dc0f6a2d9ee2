//! A copy of an agent's state: a snapshot with its deltas applied.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    change::{Change, changes},
    client::Received,
    v1::{Endpoint, EndpointKey, EndpointLatencies, EngineAge, Gpu, Node, Snapshot},
};

/// Maximum endpoints kept per agent. Further ones are ignored.
const MAX_ENDPOINTS: usize = 4096;
/// Maximum GPUs kept per agent. Further ones are ignored.
const MAX_GPUS: usize = 1024;

/// The newest known state of one agent.
///
/// [`client::watch`](crate::client::watch) delivers frames in order and without gaps. A new stream starts with a
/// snapshot, which replaces everything. Values stay when a stream ends: use the ages to decide how long.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    node: Node,
    endpoints: BTreeMap<EndpointOrder, Endpoint>,
    /// Of these endpoints.
    latencies: BTreeMap<EndpointOrder, EndpointLatencies>,
    gpus: BTreeMap<String, Gpu>,
    /// When the newest frame was sent (CLOCK_BOOTTIME of the node) and when it arrived.
    last_frame: Option<(u64, Instant)>,
    gpus_confirmed_ns: u64,
}

/// Namespace, pod, port, uid, address: the order in which endpoints are listed.
type EndpointOrder = (String, String, u32, String, String);

impl Replica {
    /// Applies a frame.
    pub fn apply(&mut self, received: &Received) {
        self.last_frame = Some((received.frame.sent_boottime_ns, received.at));
        for change in changes(&received.frame) {
            match change {
                Change::Reset { .. } => {
                    self.node = Node::default();
                    self.endpoints.clear();
                    self.latencies.clear();
                    self.gpus.clear();
                    self.gpus_confirmed_ns = 0;
                }
                Change::Node(node) => self.node.clone_from(node),
                Change::GpuRemoved(uuid) => {
                    self.gpus.remove(uuid);
                }
                Change::Gpu(gpu) => {
                    if self.gpus.len() < MAX_GPUS || self.gpus.contains_key(&gpu.uuid) {
                        self.gpus.insert(gpu.uuid.clone(), gpu.clone());
                    }
                }
                Change::EndpointRemoved(key) => {
                    let order = order(key);
                    self.endpoints.remove(&order);
                    self.latencies.remove(&order);
                }
                Change::Endpoint(endpoint) => self.put(endpoint),
                Change::Latencies(latencies) => self.put_latencies(latencies),
                Change::KernelConfirmed { measured_boottime_ns } => self.confirm_kernel(measured_boottime_ns),
                Change::GpusConfirmed { measured_boottime_ns } => {
                    self.gpus_confirmed_ns = self.gpus_confirmed_ns.max(measured_boottime_ns);
                }
                Change::EngineConfirmed(age) => self.confirm_engine(age),
            }
        }
    }

    fn put(&mut self, endpoint: &Endpoint) {
        let Some(key) = &endpoint.key else { return };
        let order = order(key);
        if self.endpoints.len() < MAX_ENDPOINTS || self.endpoints.contains_key(&order) {
            self.endpoints.insert(order, endpoint.clone());
        }
    }

    fn put_latencies(&mut self, latencies: &EndpointLatencies) {
        let Some(order) = latencies.key.as_ref().map(order) else { return };
        if self.endpoints.contains_key(&order) && latencies.is_bounded() {
            self.latencies.insert(order, latencies.clone());
        }
    }

    fn confirm_kernel(&mut self, measured_boottime_ns: u64) {
        for kernel in self.endpoints.values_mut().filter_map(|endpoint| endpoint.kernel.as_mut()) {
            kernel.measured_boottime_ns = kernel.measured_boottime_ns.max(measured_boottime_ns);
        }
    }

    fn confirm_engine(&mut self, age: &EngineAge) {
        if let Some(key) = &age.key
            && let Some(endpoint) = self.endpoints.get_mut(&order(key))
            && let Some(engine) = &mut endpoint.engine
        {
            engine.measured_boottime_ns = engine.measured_boottime_ns.max(age.measured_boottime_ns);
        }
    }

    /// Returns whether a frame was ever applied.
    pub fn has_data(&self) -> bool {
        self.last_frame.is_some()
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// All endpoints, ordered by namespace, pod and port.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// All GPUs, ordered by index, then UUID.
    pub fn gpus(&self) -> Vec<&Gpu> {
        let mut gpus: Vec<&Gpu> = self.gpus.values().collect();
        gpus.sort_by_key(|gpu| gpu.index);
        gpus
    }

    /// The latency histograms of an endpoint, as old as its kernel values. `None` if they are not known: the agent does not
    /// send them, or nothing was counted since it started.
    pub fn latencies(&self, endpoint: &Endpoint) -> Option<&EndpointLatencies> {
        endpoint.kernel.as_ref()?;
        self.latencies.get(&order(endpoint.key.as_ref()?))
    }

    /// The state as one snapshot.
    pub fn snapshot(&self) -> Snapshot {
        let is_counted = |it: &&EndpointLatencies| !it.is_empty();
        Snapshot {
            node: Some(self.node.clone()),
            endpoints: self.endpoints.values().cloned().collect(),
            gpus: self.gpus.values().cloned().collect(),
            latencies: self.latencies.values().filter(is_counted).cloned().collect(),
        }
    }

    /// Age of the kernel values of an endpoint at `now`. `None` if there are none, or if they are older than this machine's
    /// clock can express.
    pub fn kernel_age(&self, endpoint: &Endpoint, now: Instant) -> Option<Duration> {
        self.age(endpoint.kernel.as_ref()?.measured_boottime_ns, now)
    }

    /// Age of the engine values of an endpoint. `None` as for [`Self::kernel_age`].
    pub fn engine_age(&self, endpoint: &Endpoint, now: Instant) -> Option<Duration> {
        self.age(endpoint.engine.as_ref()?.measured_boottime_ns, now)
    }

    /// Age of the values of a GPU. `None` as for [`Self::kernel_age`].
    pub fn gpu_age(&self, gpu: &Gpu, now: Instant) -> Option<Duration> {
        self.age(gpu.measured_boottime_ns.max(self.gpus_confirmed_ns), now)
    }

    /// Time since a boot time of the agent's node. `None` as for [`Self::kernel_age`].
    pub fn age(&self, boottime_ns: u64, now: Instant) -> Option<Duration> {
        let (sent_ns, at) = self.last_frame?;
        let age_when_sent = Duration::from_nanos(sent_ns.saturating_sub(boottime_ns));
        Some(now.saturating_duration_since(at.checked_sub(age_when_sent)?))
    }

    /// Time since the newest frame arrived. `None` if none did.
    pub fn frame_age(&self, now: Instant) -> Option<Duration> {
        self.last_frame.map(|(_, at)| now.saturating_duration_since(at))
    }
}

fn order(key: &EndpointKey) -> EndpointOrder {
    (key.namespace.clone(), key.pod.clone(), key.port, key.uid.clone(), key.ip.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Delta, EngineLoad, Frame, Goodbye, Heartbeat, Histogram, KernelLoad, frame::Body};

    fn receive(replica: &mut Replica, body: Body) {
        let frame = Frame { epoch: 1, seq: 1, sent_boottime_ns: 10_000_000_000, body: Some(body) };
        replica.apply(&Received { frame, at: Instant::now() });
    }

    fn endpoint(uid: &str, in_flight: u64) -> Endpoint {
        let key = EndpointKey { pod: "pod".into(), uid: uid.into(), ..EndpointKey::default() };
        Endpoint {
            key: Some(key),
            kernel: Some(KernelLoad { in_flight, ..KernelLoad::default() }),
            engine: Some(EngineLoad::default()),
            ..Endpoint::default()
        }
    }

    fn loads(replica: &Replica) -> Vec<u64> {
        replica.endpoints().map(|endpoint| endpoint.kernel.unwrap_or_default().in_flight).collect()
    }

    #[test]
    fn delta_replaces_and_removes_values_and_snapshot_replaces_everything() {
        let mut replica = Replica::default();
        assert!(!replica.has_data());
        let endpoints = vec![endpoint("a", 1), endpoint("b", 2)];
        let gpus = vec![Gpu { uuid: "GPU-1".into(), index: 1, ..Gpu::default() }];
        receive(&mut replica, Body::Snapshot(Snapshot { endpoints, gpus, ..Snapshot::default() }));
        assert_eq!(loads(&replica), [1, 2]);

        let delta = Delta {
            endpoints: vec![endpoint("a", 5), endpoint("c", 7)],
            gpus: vec![Gpu { uuid: "GPU-0".into(), index: 0, ..Gpu::default() }],
            removed_endpoints: vec![endpoint("b", 0).key.unwrap()],
            removed_gpu_uuids: vec!["unknown".into()],
            ..Delta::default()
        };
        receive(&mut replica, Body::Delta(delta));
        assert_eq!(loads(&replica), [5, 7]);
        assert_eq!(replica.gpus().iter().map(|gpu| gpu.index).collect::<Vec<_>>(), [0, 1]);

        receive(&mut replica, Body::Goodbye(Goodbye::default()));
        assert_eq!(loads(&replica), [5, 7]);
        receive(&mut replica, Body::Snapshot(Snapshot::default()));
        assert_eq!((loads(&replica).len(), replica.gpus().len()), (0, 0));
    }

    #[test]
    fn heartbeat_renews_ages_only() {
        let mut replica = Replica::default();
        receive(
            &mut replica,
            Body::Snapshot(Snapshot { endpoints: vec![endpoint("a", 1)], ..Snapshot::default() }),
        );
        let old = replica.endpoints().next().unwrap().clone();
        assert!(replica.kernel_age(&old, Instant::now()).unwrap() >= Duration::from_secs(10));
        let heartbeat = Heartbeat {
            kernel_measured_boottime_ns: Some(9_000_000_000),
            engines: vec![EngineAge { key: old.key.clone(), measured_boottime_ns: 8_000_000_000 }],
            ..Heartbeat::default()
        };
        receive(&mut replica, Body::Heartbeat(heartbeat));
        let new = replica.endpoints().next().unwrap();
        let in_flight = |endpoint: &Endpoint| endpoint.kernel.unwrap().in_flight;
        assert_eq!(in_flight(new), in_flight(&old));
        let near = |age: Option<Duration>, seconds| {
            let age = age.unwrap();
            age >= Duration::from_secs(seconds) && age < Duration::from_secs(seconds + 1)
        };
        assert!(
            near(replica.kernel_age(new, Instant::now()), 1)
                && near(replica.engine_age(new, Instant::now()), 2)
        );
    }

    #[test]
    fn latencies_are_those_of_known_endpoints() {
        let latencies = |uid: &str, count| EndpointLatencies {
            key: endpoint(uid, 0).key,
            ttft: Some(Histogram { bounds_ns: vec![1, 2], counts: vec![count] }),
            ..EndpointLatencies::default()
        };
        let mut replica = Replica::default();
        let snapshot = Snapshot {
            endpoints: vec![endpoint("a", 1)],
            latencies: vec![latencies("a", 1), latencies("stranger", 1), {
                let bounds_ns = (0..1000).collect();
                let ttft = Some(Histogram { bounds_ns, ..Histogram::default() });
                EndpointLatencies { ttft, ..latencies("a", 0) }
            }],
            ..Snapshot::default()
        };
        receive(&mut replica, Body::Snapshot(snapshot));
        assert_eq!(replica.snapshot().latencies, [latencies("a", 1)]);
        // A new load alone leaves them as they are.
        let delta = Delta { endpoints: vec![endpoint("a", 2)], ..Delta::default() };
        receive(&mut replica, Body::Delta(delta));
        let delta = Delta {
            endpoints: vec![endpoint("b", 1)],
            latencies: vec![latencies("b", 7)],
            ..Delta::default()
        };
        receive(&mut replica, Body::Delta(delta));
        assert_eq!(replica.snapshot().latencies, [latencies("a", 1), latencies("b", 7)]);
        let unmeasured = Endpoint { kernel: None, ..endpoint("a", 0) };
        receive(&mut replica, Body::Delta(Delta { endpoints: vec![unmeasured], ..Delta::default() }));
        let of = |replica: &Replica| {
            replica.endpoints().map(|it| replica.latencies(it).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(of(&replica), [false, true], "unknown without a load");
        let removed_endpoints = vec![endpoint("b", 0).key.unwrap()];
        receive(&mut replica, Body::Delta(Delta { removed_endpoints, ..Delta::default() }));
        receive(&mut replica, Body::Delta(Delta { endpoints: vec![endpoint("b", 0)], ..Delta::default() }));
        assert_eq!(of(&replica), [false, false], "a successor has its own");
    }

    #[test]
    fn number_of_endpoints_is_bounded() {
        let mut replica = Replica::default();
        let endpoints = (0..MAX_ENDPOINTS + 5).map(|n| endpoint(&n.to_string(), 0)).collect();
        receive(&mut replica, Body::Snapshot(Snapshot { endpoints, ..Snapshot::default() }));
        assert_eq!(replica.endpoints().len(), MAX_ENDPOINTS);
    }
}
