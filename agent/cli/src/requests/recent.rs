//! The newest ended requests of all agents, for a view that shows them at one time.

use std::{collections::VecDeque, time::SystemTime};

use forebay_telemetry::requests::{ReceivedRequests, RequestOptions};
use serde_json::{Value, json};

use super::{
    agent::Agent,
    follow::{Event, RequestStreams},
    render::{Row, value},
};
use crate::{agents::Agents, scope::Scope};

/// Maximum requests that are kept.
const MAX_ROWS: usize = 50;
/// Requests per second from each agent, on average. A view of the newest ones needs no more.
const PER_SECOND: u32 = 100;

/// The newest ended requests, and the streams that bring them.
#[derive(Debug)]
pub(crate) struct Recent {
    streams: RequestStreams,
    agents: Vec<Agent>,
    /// The newest first.
    rows: VecDeque<Value>,
}

impl Recent {
    /// Starts the streams of all agents.
    pub(crate) fn start(agents: Agents) -> Self {
        let names = agents.targets.iter().map(|target| Agent::new(target.name.clone())).collect();
        let options = RequestOptions {
            subscriber: "forebay-cli".into(),
            max_per_second: PER_SECOND,
            tls: agents.tls.clone(),
            ..RequestOptions::default()
        };
        Self { streams: RequestStreams::start(agents, &options), agents: names, rows: VecDeque::new() }
    }

    /// The next event of a stream, for [`Self::take`].
    pub(crate) async fn next(&mut self) -> (usize, Event) {
        self.streams.next().await
    }

    pub(crate) fn take(&mut self, agent: usize, event: &Event, scope: &Scope) {
        match event {
            Event::Frame(received) => self.take_frame(agent, received, scope),
            Event::Down(error) => self.agents[agent].problem = Some(error.to_string()),
        }
        if self.agents[agent].is_other_node {
            self.streams.stop(agent);
        }
    }

    fn take_frame(&mut self, agent: usize, received: &ReceivedRequests, scope: &Scope) {
        let agent = &mut self.agents[agent];
        agent.take(received, scope);
        if agent.is_other_node {
            return;
        }
        let node = agent.node.as_deref().unwrap_or_default();
        let now = SystemTime::now();
        for request in &received.frame.requests {
            if request.key.as_ref().is_some_and(|key| scope.has_pod(node, key)) {
                self.rows.push_front(value(&Row::new(node, received, request, now)));
            }
        }
        self.rows.truncate(MAX_ROWS);
    }

    /// The requests, the newest first, how many are missing at least, and what is wrong with the streams.
    pub(crate) fn document(&self) -> Value {
        let lost = self.agents.iter().map(|agent| agent.lost);
        let missing: u64 =
            lost.map(|lost| lost.over_rate + lost.unread + lost.kernel_events.unwrap_or_default()).sum();
        let problems: Vec<String> = self
            .agents
            .iter()
            .filter_map(|agent| Some(format!("agent {}: {}", agent.name, agent.problem.as_ref()?)))
            .collect();
        json!({ "items": self.rows, "missing": missing, "problems": problems })
    }
}
