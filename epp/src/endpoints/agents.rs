//! Keeps one telemetry stream to each agent in the resource store.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use forebay_resources::{LabelSelector, ObjectKey, Pod, Snapshot, Store, pod_ip, takes_requests};
use forebay_telemetry::client::{self, Event, WatchOptions};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::Endpoints;

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

/// Follows all agents. Dropping the future closes the streams.
pub(crate) async fn follow_agents(store: Arc<Store>, options: AgentOptions, endpoints: Arc<Endpoints>) {
    let options = Arc::new(options);
    let mut streams: HashMap<SocketAddr, AbortOnDropHandle<()>> = HashMap::new();
    let mut generations = store.subscribe();
    loop {
        generations.mark_unchanged();
        let wanted = agent_addresses(&store.snapshot(), &options);
        streams.retain(|agent, _| {
            let stays = wanted.contains(agent);
            if !stays {
                endpoints.remove_agent(*agent);
            }
            stays
        });
        for agent in wanted {
            streams.entry(agent).or_insert_with(|| {
                endpoints.add_agent(agent);
                let stream = follow_agent(agent, options.clone(), endpoints.clone());
                let stream = stream.instrument(tracing::debug_span!("agent", address = %agent));
                AbortOnDropHandle::new(tokio::spawn(stream))
            });
        }
        if generations.changed().await.is_err() {
            return;
        }
    }
}

fn agent_addresses(snapshot: &Snapshot, options: &AgentOptions) -> BTreeSet<SocketAddr> {
    let is_of_namespace =
        |key: &ObjectKey| options.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
    let pods = snapshot.pods.iter().filter(|(key, _)| is_of_namespace(key));
    let ips = pods.filter_map(|(_, pod)| agent_ip(pod, &options.selector));
    ips.map(|ip| SocketAddr::new(ip, options.port)).take(MAX_AGENTS).collect()
}

fn agent_ip(pod: &Pod, selector: &LabelSelector) -> Option<IpAddr> {
    let labels = pod.metadata.labels.as_ref()?;
    if selector.matches(labels) && takes_requests(pod) { pod_ip(pod) } else { None }
}

async fn follow_agent(agent: SocketAddr, options: Arc<AgentOptions>, endpoints: Arc<Endpoints>) {
    let never = client::watch(agent, &options.watch, |event| match event {
        Event::Frame(received) => endpoints.apply(agent, &received),
        Event::Down { reason, retry_in } => {
            if endpoints.agent_down(agent) {
                tracing::warn!(%agent, %reason, "agent telemetry lost; using engine metrics");
            } else {
                tracing::debug!(%agent, %reason, ?retry_in, "agent telemetry still lost");
            }
        }
    });
    match never.await {}
}
