//! Which pods are agents.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use forebay_resources::{LabelSelector, ObjectKey, Pod, Snapshot, pod_ip, takes_requests};
use forebay_telemetry::client::WatchOptions;

use crate::Error;

/// Maximum agents followed: the number of nodes that Kubernetes supports in one cluster. Further agents are ignored.
const MAX_AGENTS: usize = 5000;

/// Which pods are agents, and how to watch them.
#[derive(Clone, Debug)]
pub(crate) struct AgentOptions {
    pub(crate) selector: LabelSelector,
    /// `None`: all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) port: u16,
    pub(crate) watch: WatchOptions,
}

impl AgentOptions {
    pub(super) fn addresses(&self, snapshot: &Snapshot) -> BTreeSet<SocketAddr> {
        let is_of_namespace =
            |key: &ObjectKey| self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let pods = snapshot.pods.iter().filter(|(key, _)| is_of_namespace(key));
        let ips = pods.filter_map(|(_, pod)| agent_ip(pod, &self.selector));
        ips.map(|ip| SocketAddr::new(ip, self.port)).take(MAX_AGENTS).collect()
    }
}

fn agent_ip(pod: &Pod, selector: &LabelSelector) -> Option<IpAddr> {
    let labels = pod.metadata.labels.as_ref()?;
    if selector.matches(labels) && takes_requests(pod) { pod_ip(pod) } else { None }
}

/// Parses `name=value[,name=value…]`.
pub(crate) fn parse_selector(text: &str) -> Result<LabelSelector, Error> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.trim().to_owned()))
    };
    let match_labels = text.split(',').map(pair).collect::<Option<_>>();
    Ok(LabelSelector { match_labels: match_labels.ok_or_else(|| Error::Selector(text.into()))? })
}
