//! Discovery of agents, and their telemetry streams.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use forebay_resources::{Pod, Store};
use forebay_service::tls::{self, Identity};
use forebay_telemetry::client::{Event, WatchOptions, watch};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    forward::{self, Access, Forwarding},
    scope::{self, Scope},
    target::Target,
    view::View,
};

/// Maximum queued frames of all agents.
const QUEUE: usize = 1024;
/// Longest wait for the first snapshots of all agents.
const FIRST_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Selects agents, and authenticates to them.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    /// Agents as ADDRESS:PORT[,…] [default: those of the cluster, through its API server].
    #[arg(long, env = "FOREBAY_AGENTS", value_delimiter = ',')]
    pub(crate) agents: Vec<SocketAddr>,
    /// Folder of Kubernetes manifests to read instead of a cluster.
    #[arg(long, env = "FOREBAY_RESOURCES", conflicts_with = "agents")]
    pub(crate) resources: Option<PathBuf>,
    /// Label selector of the agents' Pods.
    #[arg(long, default_value = "app.kubernetes.io/name=forebay-agent")]
    pub(crate) agent_selector: Selector,
    /// Namespace of the forebay release [default: the only one in which such Pods run].
    #[arg(long, env = "FOREBAY_AGENT_NAMESPACE", value_name = "NAME")]
    agent_namespace: Option<String>,
    /// Telemetry port of the agents.
    #[arg(long, default_value_t = 9550)]
    pub(crate) agent_port: u16,
    /// Client certificate for the agents (PEM); requires --tls-key and --tls-ca.
    #[arg(long)]
    tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert (PEM).
    #[arg(long)]
    tls_key: Option<PathBuf>,
    /// Certificate authority of the agents (PEM).
    #[arg(long)]
    tls_ca: Option<PathBuf>,
}

impl Options {
    /// Starts the scope with the resources that these options name.
    pub(crate) async fn scope(&self, options: &scope::Options, access: &Access) -> anyhow::Result<Scope> {
        Scope::start(options, self.resources.as_deref(), !self.agents.is_empty(), access).await
    }

    fn tls(&self) -> Result<Option<Arc<Identity>>, tls::Error> {
        let [certificate, key, authority] = [&self.tls_cert, &self.tls_key, &self.tls_ca].map(Clone::clone);
        Identity::from_flags(certificate, key, authority, &[], "--tls-cert, --tls-key and --tls-ca")
    }
}

/// `key=value`.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    key: String,
    value: String,
}

impl Selector {
    pub(crate) fn matches(&self, pod: &Pod) -> bool {
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(&self.key)) == Some(&self.value)
    }
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

/// Connects to all agents. Returns when each has sent its snapshot or the time is over, with the streams that go on.
pub(crate) async fn ask(options: &Options, access: &Access) -> anyhow::Result<(AgentStreams, View)> {
    let (mut streams, names) = connect(options, access).await?;
    let mut view = View::new(names);
    let deadline = tokio::time::sleep(FIRST_SNAPSHOT_TIMEOUT);
    tokio::pin!(deadline);
    while !view.is_complete() {
        tokio::select! {
            Some((agent, event)) = streams.next() => view.apply(agent, event),
            () = &mut deadline => {
                view.give_up(FIRST_SNAPSHOT_TIMEOUT);
                break;
            }
        }
    }
    Ok((streams, view))
}

/// Starts the streams of all agents. Returns them with the agents' names.
pub(crate) async fn connect(
    options: &Options,
    access: &Access,
) -> anyhow::Result<(AgentStreams, Vec<String>)> {
    let Agents { targets, tls, forwarding } = find(options, access).await?;
    let streams = AgentStreams::start(&targets, tls.as_ref(), forwarding);
    Ok((streams, targets.into_iter().map(|target| target.name).collect()))
}

/// Agents, and what a connection to them needs.
#[derive(Debug)]
pub(crate) struct Agents {
    pub(crate) targets: Vec<Target>,
    /// Client certificate for them.
    pub(crate) tls: Option<Arc<Identity>>,
    /// Must outlive the connections.
    pub(crate) forwarding: Forwarding,
}

/// Finds the agents, without connecting to them.
pub(crate) async fn find(options: &Options, access: &Access) -> anyhow::Result<Agents> {
    let (targets, forwarding) = targets(options, access).await?;
    let tls = options.tls()?.or_else(|| forwarding.tls.clone());
    Ok(Agents { targets, tls, forwarding })
}

/// The agents of --agents, of the folder, or of the cluster, with their forwarded ports.
async fn targets(options: &Options, access: &Access) -> anyhow::Result<(Vec<Target>, Forwarding)> {
    if let Some(folder) = &options.resources {
        return Ok((in_folder(folder, options).await?, Forwarding::default()));
    }
    if !options.agents.is_empty() {
        return Ok((options.agents.iter().copied().map(Target::from).collect(), Forwarding::default()));
    }
    let client = access.client().await?;
    let namespace = options.agent_namespace.as_deref();
    forward::start(&client, namespace, &options.agent_selector.to_string(), options.agent_port).await
}

async fn in_folder(folder: &Path, options: &Options) -> anyhow::Result<Vec<Target>> {
    let store = Store::new();
    let _provider = forebay_resources::folder::start(folder.to_owned(), store.clone()).await?;
    let selector = &options.agent_selector;
    let snapshot = store.snapshot();
    let targets: Vec<Target> = snapshot
        .pods
        .values()
        .filter(|pod| selector.matches(pod))
        .filter_map(|pod| target_of(pod, options.agent_port))
        .collect();
    if targets.is_empty() {
        bail!("no Pod in {} has the label {selector}", folder.display());
    }
    Ok(targets)
}

/// The agent of a Pod in a folder.
pub(crate) fn target_of(pod: &Pod, port: u16) -> Option<Target> {
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    Some(Target::from(SocketAddr::new(ip, port)))
}

/// The telemetry streams of all agents, merged.
#[derive(Debug)]
pub(crate) struct AgentStreams {
    sender: mpsc::Sender<(usize, Event)>,
    events: mpsc::Receiver<(usize, Event)>,
    tls: Option<Arc<Identity>>,
    /// By agent.
    handles: Vec<AbortHandle>,
    tasks: JoinSet<()>,
    _forwarding: Forwarding,
}

impl AgentStreams {
    /// `forwarding`: that of the targets, if nothing else keeps it.
    pub(crate) fn start(targets: &[Target], tls: Option<&Arc<Identity>>, forwarding: Forwarding) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let (handles, tasks) = (Vec::new(), JoinSet::new());
        let mut streams = Self { sender, events, tls: tls.cloned(), handles, tasks, _forwarding: forwarding };
        for target in targets {
            streams.add(target.address);
        }
        streams
    }

    /// Starts the stream of one more agent, whose index is the next one.
    pub(crate) fn add(&mut self, address: SocketAddr) {
        let agent = self.handles.len();
        let sender = self.sender.clone();
        let options = WatchOptions {
            subscriber: "forebay-cli".into(),
            min_interval: Duration::from_millis(100),
            heartbeat: Duration::from_secs(1),
            latencies: true,
            tls: self.tls.clone(),
        };
        let following = async move {
            watch(address, &options, |event| {
                // The queue holds minutes of frames. It is full only if the reader is stopped.
                let _ = sender.try_send((agent, event));
            })
            .await;
        };
        self.handles.push(self.tasks.spawn(following));
    }

    /// Ends the stream of an agent.
    pub(crate) fn stop(&self, agent: usize) {
        if let Some(handle) = self.handles.get(agent) {
            handle.abort();
        }
    }

    /// The next event with the index of its agent.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        self.events.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_selectors() {
        let selector: Selector = "app=agent".parse().unwrap();
        assert_eq!((selector.key.as_str(), selector.value.as_str()), ("app", "agent"));
        assert!("agent".parse::<Selector>().is_err());
        assert!("=agent".parse::<Selector>().is_err());
    }
}
