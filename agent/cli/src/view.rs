//! The newest state of every agent.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use forebay_telemetry::client::{Event, Received};
use forebay_telemetry::v1::{Endpoint, EndpointKey, Gpu, Node, frame::Body};

use crate::target::Target;

#[derive(Debug)]
pub(crate) struct View {
    pub(crate) agents: Vec<Agent>,
}

/// One agent as last heard.
#[derive(Debug)]
pub(crate) struct Agent {
    /// For people.
    pub(crate) name: String,
    pub(crate) node: Node,
    pub(crate) endpoints: BTreeMap<Place, Endpoint>,
    /// By index, then UUID.
    pub(crate) gpus: BTreeMap<(u32, String), Gpu>,
    heard: Option<Received>,
    kernel_confirmed_ns: u64,
    gpu_confirmed_ns: u64,
    problem: Option<String>,
}

/// Namespace, pod, port: the order that people look for pods in.
pub(crate) type Place = (String, String, u32);

impl View {
    pub(crate) fn new(targets: &[Target]) -> Self {
        let agents = targets
            .iter()
            .map(|target| Agent {
                name: target.name.clone(),
                node: Node::default(),
                endpoints: BTreeMap::new(),
                gpus: BTreeMap::new(),
                heard: None,
                kernel_confirmed_ns: 0,
                gpu_confirmed_ns: 0,
                problem: None,
            })
            .collect();
        Self { agents }
    }

    pub(crate) fn apply(&mut self, agent: usize, event: Event) {
        let agent = &mut self.agents[agent];
        match event {
            Event::Frame(received) => agent.hear(received),
            Event::Down { reason, .. } => agent.problem = Some(reason.to_string()),
        }
    }

    /// Every agent has answered, or has said why not.
    pub(crate) fn is_complete(&self) -> bool {
        self.agents.iter().all(|agent| agent.heard.is_some() || agent.problem.is_some())
    }

    /// Those that have not answered will not be waited for.
    pub(crate) fn give_up(&mut self, after: Duration) {
        for agent in self.agents.iter_mut().filter(|agent| agent.heard.is_none() && agent.problem.is_none()) {
            agent.problem = Some(format!("no answer within {after:?}"));
        }
    }

    pub(crate) fn answered(&self) -> usize {
        self.agents.iter().filter(|agent| agent.problem.is_none()).count()
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.agents.iter().filter_map(|agent| Some((agent.name.as_str(), agent.problem()?)))
    }
}

impl Agent {
    pub(crate) fn has_answered(&self) -> bool {
        self.heard.is_some()
    }

    /// Why it says nothing, or nothing any more.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn hear(&mut self, mut received: Received) {
        self.problem = None;
        match received.frame.body.take() {
            Some(Body::Snapshot(snapshot)) => {
                self.node = snapshot.node.unwrap_or_default();
                self.endpoints.clear();
                self.gpus.clear();
                self.put(snapshot.endpoints, snapshot.gpus);
            }
            Some(Body::Delta(delta)) => {
                if let Some(node) = delta.node {
                    self.node = node;
                }
                for key in &delta.removed_endpoints {
                    self.endpoints.remove(&place(key));
                }
                self.gpus.retain(|(_, uuid), _| !delta.removed_gpu_uuids.contains(uuid));
                self.put(delta.endpoints, delta.gpus);
            }
            Some(Body::Heartbeat(heartbeat)) => {
                self.kernel_confirmed_ns = heartbeat.kernel_measured_boottime_ns.unwrap_or_default();
                self.gpu_confirmed_ns = heartbeat.gpu_measured_boottime_ns.unwrap_or_default();
                for age in heartbeat.engines {
                    if let Some(key) = &age.key
                        && let Some(endpoint) = self.endpoints.get_mut(&place(key))
                        && let Some(engine) = &mut endpoint.engine
                    {
                        engine.measured_boottime_ns = age.measured_boottime_ns;
                    }
                }
            }
            Some(Body::Goodbye(_)) | None => {}
        }
        self.heard = Some(received);
    }

    fn put(&mut self, endpoints: Vec<Endpoint>, gpus: Vec<Gpu>) {
        for endpoint in endpoints {
            if let Some(key) = &endpoint.key {
                self.endpoints.insert(place(key), endpoint);
            }
        }
        // A driver that starts again may number them anew.
        self.gpus.retain(|(_, uuid), _| gpus.iter().all(|gpu| gpu.uuid != *uuid));
        for gpu in gpus {
            self.gpus.insert((gpu.index, gpu.uuid.clone()), gpu);
        }
    }

    /// How old the kernel's numbers of an endpoint are now.
    pub(crate) fn kernel_age(&self, endpoint: &Endpoint) -> Option<Duration> {
        let measured_ns = endpoint.kernel.as_ref()?.measured_boottime_ns;
        self.age(measured_ns.max(self.kernel_confirmed_ns))
    }

    pub(crate) fn engine_age(&self, endpoint: &Endpoint) -> Option<Duration> {
        self.age(endpoint.engine.as_ref()?.measured_boottime_ns)
    }

    pub(crate) fn gpu_age(&self, gpu: &Gpu) -> Option<Duration> {
        self.age(gpu.measured_boottime_ns.max(self.gpu_confirmed_ns))
    }

    fn age(&self, boottime_ns: u64) -> Option<Duration> {
        let measured = self.heard.as_ref()?.local_time(boottime_ns)?;
        Some(Instant::now().saturating_duration_since(measured))
    }
}

fn place(key: &EndpointKey) -> Place {
    (key.namespace.clone(), key.pod.clone(), key.port)
}
