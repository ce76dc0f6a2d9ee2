//! Which agents there are, and their streams.

use std::{fmt, net::SocketAddr, path::Path, str::FromStr, sync::Arc, time::Duration};

use anyhow::bail;
use forebay_agent::{
    resources::{self, Store},
    telemetry_client::{Event, WatchOptions, watch},
    tls::Identity,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Options,
    forward::{self, Access, Forwarding},
};

/// Frames waiting to be shown, of all agents together.
const QUEUE: usize = 1024;

/// `key=value`.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    key: String,
    value: String,
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.into(), value: value.into() }),
            _ => Err("must be key=value".into()),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// An agent to ask.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// For people.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

/// The agents that the options name, those whose Pods the folder has, or those of the
/// cluster; with what must live as long as they are asked.
pub(crate) async fn targets(options: &Options, access: &Access) -> anyhow::Result<(Vec<Target>, Forwarding)> {
    if let Some(folder) = &options.resources {
        return Ok((in_folder(folder, options).await?, Forwarding::default()));
    }
    if !options.agents.is_empty() {
        return Ok((options.agents.iter().copied().map(Target::from).collect(), Forwarding::default()));
    }
    let client = access.client().await?;
    forward::start(&client, &options.agent_selector.to_string(), options.agent_port).await
}

async fn in_folder(folder: &Path, options: &Options) -> anyhow::Result<Vec<Target>> {
    let store = Store::new();
    let _provider = resources::folder::start(folder.to_owned(), store.clone()).await?;
    let selector = &options.agent_selector;
    let snapshot = store.snapshot();
    let targets: Vec<Target> = snapshot
        .pods
        .values()
        .filter(|pod| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(&selector.key)) == Some(&selector.value)
        })
        .filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok())
        .map(|ip| Target::from(SocketAddr::new(ip, options.agent_port)))
        .collect();
    if targets.is_empty() {
        bail!("no Pod in {} has the label {selector}", folder.display());
    }
    Ok(targets)
}

/// The streams of all agents, as one.
#[derive(Debug)]
pub(crate) struct Following {
    events: mpsc::Receiver<(usize, Event)>,
    _tasks: JoinSet<()>,
}

impl Following {
    pub(crate) fn start(targets: &[Target], tls: Option<&Arc<Identity>>) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for (agent, address) in targets.iter().map(|target| target.address).enumerate() {
            let sender = sender.clone();
            let tls = tls.cloned();
            tasks.spawn(async move {
                let options = WatchOptions {
                    subscriber: "forebay-cli".into(),
                    min_interval: Duration::from_millis(100),
                    heartbeat: Duration::from_secs(1),
                    tls: tls.clone(),
                };
                watch(address, &options, |event| {
                    // At ten frames a second the queue holds minutes; one that is
                    // full belongs to a reader that is stopped.
                    let _ = sender.try_send((agent, event));
                })
                .await;
            });
        }
        Self { events, _tasks: tasks }
    }

    /// The next event, and which agent's it is.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        self.events.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_key_and_a_value() {
        let selector: Selector = "app=agent".parse().unwrap();
        assert_eq!((selector.key.as_str(), selector.value.as_str()), ("app", "agent"));
        assert!("agent".parse::<Selector>().is_err());
        assert!("=agent".parse::<Selector>().is_err());
    }
}
