//! What is known of one agent's stream of requests.

use forebay_telemetry::{requests::ReceivedRequests, v1::DroppedRequests};

use super::render::Lost;
use crate::scope::Scope;

/// An agent whose requests are followed.
#[derive(Debug, Default)]
pub(super) struct Agent {
    /// For people.
    pub(super) name: String,
    /// Name of its node. `None` before its first frame.
    pub(super) node: Option<String>,
    pub(super) problem: Option<String>,
    /// Its node is not in scope.
    pub(super) is_other_node: bool,
    /// Its Pod is gone.
    pub(super) is_gone: bool,
    /// Of the current stream, as last reported by the agent.
    dropped: DroppedRequests,
    /// Not reported yet.
    pub(super) lost: Lost,
}

impl Agent {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// Takes what a frame says about the stream. Returns whether it is the first frame of one.
    pub(super) fn take(&mut self, received: &ReceivedRequests, scope: &Scope) -> bool {
        let node = received.frame.node.as_ref();
        if let Some(node) = node {
            self.begin_stream(&node.name);
            self.is_other_node = !scope.has_node(&node.name);
            self.problem = node
                .kernel_off
                .as_ref()
                .map(|reason| format!("requests are not counted in the kernel: {reason}"));
        }
        if !self.is_other_node {
            self.count(received.frame.dropped.unwrap_or_default());
        }
        node.is_some()
    }

    /// The first frame of a stream.
    fn begin_stream(&mut self, node: &str) {
        self.lost.interrupted |= self.node.is_some();
        self.node = Some(node.to_owned());
        self.dropped = DroppedRequests::default();
    }

    fn count(&mut self, dropped: DroppedRequests) {
        let before = std::mem::replace(&mut self.dropped, dropped);
        let since = |now: u64, before: u64| now.saturating_sub(before);
        self.lost.over_rate += since(dropped.over_rate, before.over_rate);
        self.lost.unread += since(dropped.unread, before.unread);
        if let Some(events) = dropped.kernel_events {
            let new = since(events, before.kernel_events.unwrap_or(0));
            self.lost.kernel_events = Some(self.lost.kernel_events.unwrap_or(0) + new);
        }
    }
}
