//! The newest state of every agent.

use std::time::{Duration, Instant};

use forebay_telemetry::{
    Replica,
    client::{Event, Received},
    v1::{Endpoint, Gpu, Node},
};

use crate::scope::Scope;

/// The state of all agents.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) agents: Vec<Agent>,
    /// What is shown of it.
    pub(crate) scope: Scope,
}

/// The state of one agent.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    /// For people.
    pub(crate) name: String,
    /// Of the replica.
    pub(crate) node: Node,
    pub(crate) replica: Replica,
    problem: Option<String>,
    /// It is not followed any more.
    is_removed: bool,
    /// The time in a recording. `None`: the present.
    recorded_now: Option<Instant>,
}

impl View {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let agent = |name| Agent { name, ..Agent::default() };
        Self { agents: names.into_iter().map(agent).collect(), scope: Scope::default() }
    }

    /// Adds an agent. Returns its index.
    pub(crate) fn add(&mut self, name: String) -> usize {
        self.agents.push(Agent { name, ..Agent::default() });
        self.agents.len() - 1
    }

    /// Forgets what an agent knew. The indexes of the others stay.
    pub(crate) fn remove(&mut self, agent: usize) {
        let name = std::mem::take(&mut self.agents[agent].name);
        self.agents[agent] = Agent { name, is_removed: true, ..Agent::default() };
    }

    pub(crate) fn apply(&mut self, agent: usize, event: Event) {
        match event {
            Event::Frame(received) => self.take(agent, &received),
            Event::Down { reason, .. } => self.fail(agent, reason.to_string()),
        }
    }

    pub(crate) fn take(&mut self, agent: usize, received: &Received) {
        let agent = &mut self.agents[agent];
        agent.problem = None;
        agent.replica.apply(received);
        agent.node.clone_from(agent.replica.node());
    }

    pub(crate) fn fail(&mut self, agent: usize, reason: String) {
        self.agents[agent].problem = Some(reason);
    }

    /// Sets the time in a recording.
    pub(crate) fn set_now(&mut self, now: Instant) {
        for agent in &mut self.agents {
            agent.recorded_now = Some(now);
        }
    }

    /// Returns whether every agent has sent a frame or failed.
    pub(crate) fn is_complete(&self) -> bool {
        self.agents.iter().all(|agent| agent.has_answered() || agent.problem.is_some() || agent.is_removed)
    }

    /// Marks agents that have not answered as failed.
    pub(crate) fn give_up(&mut self, after: Duration) {
        for agent in &mut self.agents {
            if !agent.has_answered() && agent.problem.is_none() {
                agent.problem = Some(format!("no response within {after:?}"));
            }
        }
    }

    /// Number of agents whose stream works.
    pub(crate) fn answered(&self) -> usize {
        self.agents.iter().filter(|agent| agent.problem.is_none()).count()
    }

    /// Name and problem of each agent whose stream does not work.
    pub(crate) fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.agents.iter().filter_map(|agent| Some((agent.name.as_str(), agent.problem()?)))
    }

    /// The agents of the nodes in scope. An agent that has not answered has no name of a node yet.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().filter(|agent| !agent.has_answered() || self.scope.has_node(&agent.node.name))
    }

    /// The pods in scope.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&Agent, &Endpoint)> {
        self.agents.iter().flat_map(|agent| {
            let pods = agent.replica.endpoints().map(move |endpoint| (agent, endpoint));
            pods.filter(|(agent, endpoint)| {
                endpoint.key.as_ref().is_some_and(|key| self.scope.has_pod(&agent.node.name, key))
            })
        })
    }

    /// The GPUs in scope: if pods are selected, only those that they use.
    pub(crate) fn gpus(&self) -> impl Iterator<Item = (&Agent, &Gpu)> {
        let nodes = self.agents.iter().filter(|agent| self.scope.has_node(&agent.node.name));
        nodes.flat_map(|agent| agent.replica.gpus().into_iter().map(move |gpu| (agent, gpu))).filter(
            |(agent, gpu)| {
                !self.scope.selects_pods()
                    || agent.pods_on(gpu).any(|endpoint| {
                        endpoint.key.as_ref().is_some_and(|key| self.scope.has_pod(&agent.node.name, key))
                    })
            },
        )
    }
}

impl Agent {
    /// Returns whether a frame was ever received.
    pub(crate) fn has_answered(&self) -> bool {
        self.replica.has_data()
    }

    /// Why the stream does not work.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The present, or the time in a recording.
    pub(crate) fn now(&self) -> Instant {
        self.recorded_now.unwrap_or_else(Instant::now)
    }

    pub(crate) fn kernel_age(&self, endpoint: &Endpoint) -> Option<Duration> {
        self.replica.kernel_age(endpoint, self.now())
    }

    pub(crate) fn engine_age(&self, endpoint: &Endpoint) -> Option<Duration> {
        self.replica.engine_age(endpoint, self.now())
    }

    pub(crate) fn gpu_age(&self, gpu: &Gpu) -> Option<Duration> {
        self.replica.gpu_age(gpu, self.now())
    }

    /// Time since a boot time of the node.
    pub(crate) fn age(&self, boottime_ns: u64) -> Option<Duration> {
        self.replica.age(boottime_ns, self.now())
    }

    /// The endpoints of the pods that use a GPU.
    pub(crate) fn pods_on<'a>(&'a self, gpu: &'a Gpu) -> impl Iterator<Item = &'a Endpoint> {
        self.replica.endpoints().filter(|endpoint| endpoint.gpu_uuids.contains(&gpu.uuid))
    }

    /// Requests in flight on the node. `None` if an endpoint is not counted.
    pub(crate) fn in_flight(&self) -> Option<u64> {
        let in_flight = |endpoint: &Endpoint| endpoint.kernel.as_ref().map(|load| load.in_flight);
        self.replica.endpoints().map(in_flight).sum()
    }
}
