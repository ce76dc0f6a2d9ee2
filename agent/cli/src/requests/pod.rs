//! Whether the agents know the pod of `--pod`: its requests can only be waited for if one does.

use std::future::pending;

use anyhow::bail;
use forebay_telemetry::client::Event;

use crate::{
    agents::{AgentStreams, Agents},
    forward::Forwarding,
    nearest::nearest,
    scope::{self, Scope},
    target::Target,
    view::View,
};

/// The pod, and the state of the agents.
#[derive(Debug)]
pub(super) struct WantedPod {
    name: String,
    /// `namespace/name`, where the namespace is known.
    title: String,
    streams: AgentStreams,
    view: View,
    knowledge: Knowledge,
}

/// What the user was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Knowledge {
    #[default]
    Nothing,
    Counted,
    /// It is known, and its requests are not counted, for this reason.
    NotCounted(String),
    /// No agent that responds knows it. Others do not respond.
    Unknown,
    /// It was known before.
    Gone,
}

impl WantedPod {
    /// Starts a stream of the state of each agent.
    pub(super) fn new(name: &str, scope: &scope::Options, agents: &Agents) -> anyhow::Result<Self> {
        let names = agents.targets.iter().map(|target| target.name.clone());
        let mut view = View::new(names);
        let title =
            scope.namespace.as_ref().map_or(name.to_owned(), |namespace| format!("{namespace}/{name}"));
        let mut options = scope.clone();
        options.selector = None;
        view.scope = Scope::without_resources(&options)?;
        let streams = AgentStreams::start(&agents.targets, agents.tls.as_ref(), Forwarding::default());
        Ok(Self { name: name.to_owned(), title, streams, view, knowledge: Knowledge::default() })
    }

    pub(super) fn add_agent(&mut self, target: &Target) {
        self.view.add(target.name.clone());
        self.streams.add(target.address);
    }

    pub(super) fn remove_agent(&mut self, agent: usize) {
        self.streams.stop(agent);
        self.view.remove(agent);
    }

    /// What is new about the pod, for the user.
    ///
    /// # Errors
    /// If every agent has responded, and none knows the pod or has known it.
    pub(super) fn judge(&mut self) -> anyhow::Result<Option<String>> {
        let title = &self.title;
        let now = self.knowledge_now();
        if now == Knowledge::Unknown && self.view.problems().next().is_none() {
            bail!("no agent knows a pod {title}{}; see `forebay pods`", self.nearest());
        }
        if now == self.knowledge {
            return Ok(None);
        }
        let news = match &now {
            Knowledge::Nothing => None,
            Knowledge::Counted if self.knowledge == Knowledge::Nothing => None,
            Knowledge::Counted => Some(format!("pod {title} is known now")),
            Knowledge::NotCounted(reason) => {
                Some(format!("requests of pod {title} are not counted: {reason}"))
            }
            Knowledge::Gone => Some(format!("pod {title} is gone; waiting for its return")),
            Knowledge::Unknown => {
                let silent = self.view.problems().count();
                Some(format!(
                    "no agent that responds knows a pod {title}{}; waiting for {silent} that do not respond",
                    self.nearest()
                ))
            }
        };
        // The silent agents may know it: when they respond, this is judged again.
        if now != Knowledge::Nothing {
            self.knowledge = now;
        }
        Ok(news)
    }

    fn knowledge_now(&self) -> Knowledge {
        let mut pods = self.view.pods().map(|(_, endpoint)| endpoint);
        let is_wanted = |name: Option<&str>| name == Some(self.name.as_str());
        match pods.find(|it| is_wanted(it.key.as_ref().map(|key| key.pod.as_str()))) {
            Some(endpoint) => match &endpoint.kernel_off {
                Some(reason) => Knowledge::NotCounted(reason.clone()),
                None => Knowledge::Counted,
            },
            None if !matches!(self.knowledge, Knowledge::Nothing | Knowledge::Unknown) => Knowledge::Gone,
            None if self.view.is_complete() => Knowledge::Unknown,
            None => Knowledge::Nothing,
        }
    }

    /// Names the pod that may be meant.
    fn nearest(&self) -> String {
        let names: Vec<String> = self
            .view
            .pods()
            .filter_map(|(_, endpoint)| endpoint.key.as_ref().map(|key| key.pod.clone()))
            .collect();
        let nearest = nearest(&self.name, names.iter().map(String::as_str));
        nearest.map(|name| format!(" (nearest name: {name})")).unwrap_or_default()
    }
}

/// Waits for a change in what the agents know. Without a pod: forever. Cancel safe.
pub(super) async fn news(pod: &mut Option<WantedPod>) {
    let Some(pod) = pod else { return pending().await };
    let Some((agent, event)) = pod.streams.next().await else { return pending().await };
    // What an agent knew stays while there is no connection.
    if matches!(event, Event::Frame(_)) || !pod.view.agents[agent].has_answered() {
        pod.view.apply(agent, event);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use forebay_telemetry::{
        client::Received,
        v1::{Endpoint, EndpointKey, Frame, Snapshot, frame::Body},
    };

    use super::*;

    fn wanted(agents: &[&str]) -> WantedPod {
        WantedPod {
            name: "qwen-0".into(),
            title: "qwen-0".into(),
            streams: AgentStreams::start(&[], None, Forwarding::default()),
            view: View::new(agents.iter().map(|name| (*name).to_owned())),
            knowledge: Knowledge::default(),
        }
    }

    fn take(wanted: &mut WantedPod, agent: usize, pods: &[(&str, Option<&str>)]) {
        let endpoint = |(pod, off): &(&str, Option<&str>)| Endpoint {
            key: Some(EndpointKey { pod: (*pod).into(), ..EndpointKey::default() }),
            kernel_off: off.map(str::to_owned),
            ..Endpoint::default()
        };
        let endpoints = pods.iter().map(endpoint).collect();
        let body = Some(Body::Snapshot(Snapshot { endpoints, ..Snapshot::default() }));
        wanted.view.take(agent, &Received { frame: Frame { body, ..Frame::default() }, at: Instant::now() });
    }

    #[tokio::test]
    async fn a_pod_that_no_agent_knows_is_an_error_when_all_have_responded() {
        let mut wanted = wanted(&["a", "b"]);
        take(&mut wanted, 0, &[("qwen-O", None), ("other", None)]);
        assert_eq!(wanted.judge().unwrap(), None, "b may know it");
        wanted.view.fail(1, "refused".into());
        let news = wanted.judge().unwrap().unwrap();
        assert_eq!(
            news,
            "no agent that responds knows a pod qwen-0 (nearest name: qwen-O); waiting for 1 that do not respond"
        );
        assert_eq!(wanted.judge().unwrap(), None, "once");
        take(&mut wanted, 1, &[]);
        let error = wanted.judge().unwrap_err().to_string();
        assert_eq!(error, "no agent knows a pod qwen-0 (nearest name: qwen-O); see `forebay pods`");
    }

    #[tokio::test]
    async fn a_known_pod_may_leave_and_return() {
        let mut wanted = wanted(&["a"]);
        take(&mut wanted, 0, &[("qwen-0", None)]);
        assert_eq!(wanted.judge().unwrap(), None);
        take(&mut wanted, 0, &[]);
        assert_eq!(wanted.judge().unwrap().unwrap(), "pod qwen-0 is gone; waiting for its return");
        let later = wanted.view.add("b".into());
        take(&mut wanted, later, &[("qwen-0", Some("TLS"))]);
        assert_eq!(wanted.judge().unwrap().unwrap(), "requests of pod qwen-0 are not counted: TLS");
        take(&mut wanted, later, &[("qwen-0", None)]);
        assert_eq!(wanted.judge().unwrap().unwrap(), "pod qwen-0 is known now");
        wanted.remove_agent(later);
        assert_eq!(wanted.judge().unwrap().unwrap(), "pod qwen-0 is gone; waiting for its return");
    }
}
