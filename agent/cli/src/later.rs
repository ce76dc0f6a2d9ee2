//! Agents that appear and disappear while a command runs: those of a folder, or of a cluster.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::pending,
    sync::Arc,
};

use forebay_resources::{
    Kind, Pod, Provider, Store,
    cluster::{self, Interest, Selection},
    folder,
};
use kube::Client;
use tokio::sync::watch;

use crate::{
    agents::{self, Agents, Selector, target_of},
    forward::{Forwarding, is_running, target_name},
    target::Target,
};

/// What has changed.
#[derive(Debug)]
pub(crate) enum Change {
    Appeared(Target),
    /// The Pod of the agent with this name is gone.
    Gone(String),
}

/// Compares the agents' Pods with those that are followed. It does nothing if the agents are named by address.
pub(crate) struct Later {
    place: Option<Place>,
    selector: Selector,
    port: u16,
    /// Names of the agents that are followed.
    known: BTreeSet<String>,
    changes: VecDeque<Change>,
    /// Of the agents that have appeared.
    forwarding: Forwarding,
}

/// Where the Pods are.
struct Place {
    store: Arc<Store>,
    changes: watch::Receiver<u64>,
    client: Option<Client>,
    _provider: Provider,
}

impl Later {
    /// `agents`: those that are followed already.
    pub(crate) async fn start(options: &agents::Options, agents: &Agents) -> anyhow::Result<Self> {
        let store = Store::new();
        let changes = store.subscribe();
        let (provider, client) = if let Some(folder) = &options.resources {
            (Some(Provider::Folder(folder::start(folder, store.clone()).await?)), None)
        } else if let Some((client, namespace)) = &agents.forwarding.cluster {
            let pods =
                Selection::in_namespace(Kind::Pod, namespace).labels(options.agent_selector.to_string());
            let interest = Interest::new(move |_| BTreeSet::from([pods.clone()]));
            let provider = cluster::start(client.clone(), interest, store.clone());
            (Some(Provider::Cluster(provider)), Some(client.clone()))
        } else {
            (None, None)
        };
        let place = provider.map(|provider| Place { store, changes, client, _provider: provider });
        Ok(Self {
            place,
            selector: options.agent_selector.clone(),
            port: options.agent_port,
            known: agents.targets.iter().map(|target| target.name.clone()).collect(),
            changes: VecDeque::new(),
            forwarding: Forwarding::default(),
        })
    }

    /// The next change. Cancel safe.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Change> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            let Some(place) = &mut self.place else { return pending().await };
            if place.changes.changed().await.is_err() {
                return pending().await;
            }
            self.compare()?;
        }
    }

    fn compare(&mut self) -> anyhow::Result<()> {
        let Some(place) = &mut self.place else { return Ok(()) };
        place.changes.mark_unchanged();
        let snapshot = place.store.snapshot();
        let pods = snapshot.pods.values().filter(|pod| self.selector.matches(pod));
        let name = |pod: &Pod| match &place.client {
            Some(_) => is_running(pod).then(|| target_name(pod)),
            None => target_of(pod, self.port).map(|target| target.name),
        };
        let now: BTreeMap<String, &Arc<Pod>> = pods.filter_map(|pod| Some((name(pod)?, pod))).collect();
        let gone: Vec<String> = self.known.iter().filter(|name| !now.contains_key(*name)).cloned().collect();
        for name in gone {
            self.known.remove(&name);
            self.changes.push_back(Change::Gone(name));
        }
        for (name, pod) in now {
            if self.known.insert(name) {
                let target = match &place.client {
                    Some(client) => self.forwarding.open(client, pod, self.port)?,
                    None => target_of(pod, self.port),
                };
                self.changes.extend(target.map(Change::Appeared));
            }
        }
        Ok(())
    }
}
