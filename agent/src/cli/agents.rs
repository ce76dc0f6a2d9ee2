//! Which agents there are, and their streams.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use anyhow::bail;
use forebay_agent::{
    resources::{self, Store},
    telemetry_client::{Event, WatchOptions, watch},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::Options;

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

/// The agents that the options name, or those whose Pods the folder has.
pub(crate) async fn addresses(options: &Options) -> anyhow::Result<Vec<SocketAddr>> {
    let Some(folder) = &options.resources else {
        return Ok(options.agents.clone());
    };
    let store = Store::new();
    let _provider = resources::folder::start(folder.clone(), store.clone()).await?;
    let selector = &options.agent_selector;
    let snapshot = store.snapshot();
    let addresses: Vec<SocketAddr> = snapshot
        .pods
        .values()
        .filter(|pod| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(&selector.key)) == Some(&selector.value)
        })
        .filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok())
        .map(|ip| SocketAddr::new(ip, options.agent_port))
        .collect();
    if addresses.is_empty() {
        bail!("no Pod in {} has the label {}={}", folder.display(), selector.key, selector.value);
    }
    Ok(addresses)
}

/// The streams of all agents, as one.
#[derive(Debug)]
pub(crate) struct Following {
    events: mpsc::Receiver<(usize, Event)>,
    _tasks: JoinSet<()>,
}

impl Following {
    pub(crate) fn start(addresses: &[SocketAddr]) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        for (agent, &address) in addresses.iter().enumerate() {
            let sender = sender.clone();
            tasks.spawn(async move {
                let options = WatchOptions {
                    subscriber: "forebay-cli".into(),
                    min_interval: Duration::from_millis(100),
                    heartbeat: Duration::from_secs(1),
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
