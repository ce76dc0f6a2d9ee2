//! The newest state of every agent.

use std::time::Duration;

use forebay_telemetry::{
    Replica,
    client::Event,
    v1::{Endpoint, Node},
};

use crate::target::Target;

/// The state of all agents.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) agents: Vec<Agent>,
}

/// The state of one agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// For people.
    pub(crate) name: String,
    /// Of the replica.
    pub(crate) node: Node,
    pub(crate) replica: Replica,
    problem: Option<String>,
}

impl View {
    pub(crate) fn new(targets: &[Target]) -> Self {
        let agent = |target: &Target| Agent {
            name: target.name.clone(),
            node: Node::default(),
            replica: Replica::default(),
            problem: None,
        };
        Self { agents: targets.iter().map(agent).collect() }
    }

    pub(crate) fn apply(&mut self, agent: usize, event: Event) {
        let agent = &mut self.agents[agent];
        match event {
            Event::Frame(received) => {
                agent.problem = None;
                agent.replica.apply(&received);
                agent.node.clone_from(agent.replica.node());
            }
            Event::Down { reason, .. } => agent.problem = Some(reason.to_string()),
        }
    }

    /// Returns whether every agent has sent a frame or failed.
    pub(crate) fn is_complete(&self) -> bool {
        self.agents.iter().all(|agent| agent.has_answered() || agent.problem.is_some())
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

    /// Requests in flight on the node. `None` if an endpoint is not counted.
    pub(crate) fn in_flight(&self) -> Option<u64> {
        let in_flight = |endpoint: &Endpoint| endpoint.kernel.as_ref().map(|load| load.in_flight);
        self.replica.endpoints().map(in_flight).sum()
    }
}
