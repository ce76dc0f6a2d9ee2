//! Port forwarding to the agents of a cluster through the API server, as `kubectl port-forward` does.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use forebay_resources::{Pod, cluster};
use forebay_service::tls::{Identity, Texts};
use kube::{Api, Client, api::ListParams};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::target::Target;

const SECRET: &str = "forebay-cli-tls";

/// Selects the cluster, with kubectl's flags.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Access {
    /// Kubeconfig file [default: KUBECONFIG, the service account, or ~/.kube/config].
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current context].
    #[arg(long, global = true)]
    context: Option<String>,
}

/// Neither agents nor a cluster are configured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoCluster;

impl std::fmt::Display for NoCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "no agents to connect to: no kubeconfig was found. Set --kubeconfig FILE, --agents ADDRESS:PORT[,…] or --resources DIR",
        )
    }
}

impl std::error::Error for NoCluster {}

impl Access {
    /// Whether a flag names a cluster.
    pub(crate) fn is_explicit(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let config = match cluster::config(self.kubeconfig.as_deref(), self.context.as_deref()).await {
            Ok(config) => config,
            Err(_none) if self.kubeconfig.is_none() && self.context.is_none() => return Err(NoCluster.into()),
            Err(error) => return Err(error.into()),
        };
        Client::try_from(config).context("cannot use the kubeconfig")
    }
}

/// Forwarded ports. They close when this is dropped.
#[derive(Default)]
pub(crate) struct Forwarding {
    /// Client certificate for the agents.
    pub(crate) tls: Option<Arc<Identity>>,
    /// The cluster of the agents, and their namespace in it.
    pub(crate) cluster: Option<(Client, String)>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Forwarding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarding").field("ports", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl Forwarding {
    /// Forwards a local port to an agent.
    pub(crate) fn open(&mut self, client: &Client, pod: &Pod, port: u16) -> anyhow::Result<Option<Target>> {
        let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
            return Ok(None);
        };
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let target = Target { name: target_name(pod), address: listener.local_addr()? };
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        self.tasks.spawn(serve(listener, pods, name.clone(), port));
        Ok(Some(target))
    }
}

/// For messages. A new pod of the same node has another one.
pub(crate) fn target_name(pod: &Pod) -> String {
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("?");
    format!("{}/{} on {node}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

/// Forwards a local port to every running agent.
pub(crate) async fn start(
    client: &Client,
    namespace: Option<&str>,
    selector: &str,
    port: u16,
) -> anyhow::Result<(Vec<Target>, Forwarding)> {
    let pods = match namespace {
        Some(namespace) => Api::<Pod>::namespaced(client.clone(), namespace),
        None => Api::<Pod>::all(client.clone()),
    };
    let pods = pods.list(&ListParams::default().labels(selector)).await.map_err(|error| {
        anyhow!("cannot list the agents' Pods ({selector}): {error}. You need `list` on pods and `create` on pods/portforward")
    })?;
    let pods: Vec<Pod> = pods.items.into_iter().filter(is_running).collect();
    let agents_namespace = one_namespace(&pods, selector)?;
    let mut forwarding = Forwarding::default();
    let mut targets = Vec::new();
    for pod in &pods {
        targets.extend(forwarding.open(client, pod, port)?);
    }
    forwarding.tls = identity(client, &agents_namespace).await?;
    forwarding.cluster = Some((client.clone(), agents_namespace));
    Ok((targets, forwarding))
}

/// The namespace of the agents. Anybody who may create pods somewhere can give them the agents' label, so pods of several
/// namespaces are not agents of one installation.
fn one_namespace(pods: &[Pod], selector: &str) -> anyhow::Result<String> {
    let namespaces: BTreeSet<&str> =
        pods.iter().filter_map(|pod| pod.metadata.namespace.as_deref()).collect();
    let mut namespaces = namespaces.into_iter();
    match (namespaces.next(), namespaces.next()) {
        (Some(namespace), None) => Ok(namespace.to_owned()),
        (None, _) => {
            bail!("no running Pod has the label {selector}; is the agent installed (charts/forebay)?")
        }
        (Some(first), Some(second)) => bail!(
            "Pods with the label {selector} run in several namespaces ({first}, {second}, …): name the namespace of the forebay release with --agent-namespace"
        ),
    }
}

/// The client certificate that the chart made; `None` if Forebay was installed without TLS.
pub(crate) async fn identity(client: &Client, namespace: &str) -> anyhow::Result<Option<Arc<Identity>>> {
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(client.clone(), namespace);
    let secret = secrets.get_opt(SECRET).await.map_err(|error| {
        anyhow!("cannot read Secret {namespace}/{SECRET} with the client certificate for the agents: {error}")
    })?;
    let Some(data) = secret.and_then(|secret| secret.data) else { return Ok(None) };
    let text = |name: &str| {
        let value = data.get(name).with_context(|| format!("Secret {namespace}/{SECRET} has no {name}"))?;
        anyhow::Ok(value.0.clone())
    };
    let texts = Texts { certificate: text("tls.crt")?, key: text("tls.key")?, authority: text("ca.crt")? };
    Ok(Some(Identity::from_texts(&texts, &format!("Secret {namespace}/{SECRET}"))?))
}

async fn serve(listener: TcpListener, pods: Api<Pod>, name: String, port: u16) {
    // The only client is this process, with one connection at a time to each agent.
    let mut connections = JoinSet::new();
    while let Ok((stream, _from)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(forward(stream, pods.clone(), name.clone(), port));
    }
}

/// Errors close the stream, which its reader reports.
async fn forward(mut stream: TcpStream, pods: Api<Pod>, name: String, port: u16) {
    let Ok(mut forwarder) = pods.portforward(&name, &[port]).await else { return };
    if let Some(mut pod) = forwarder.take_stream(port) {
        let _ = copy_bidirectional(&mut stream, &mut pod).await;
    }
}

pub(crate) fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn pods_of_several_namespaces_are_not_trusted() {
        let pod = |namespace: &str| -> Pod {
            serde_json::from_value(serde_json::json!({ "metadata": { "name": "a", "namespace": namespace } }))
                .unwrap()
        };
        let of =
            |names: &[&str]| one_namespace(&names.iter().map(|name| pod(name)).collect::<Vec<_>>(), "a=b");
        assert_eq!(of(&["forebay-system", "forebay-system"]).unwrap(), "forebay-system");
        assert!(of(&[]).unwrap_err().to_string().contains("no running Pod"));
        let error = of(&["forebay-system", "attacker"]).unwrap_err().to_string();
        assert!(
            error.contains("(attacker, forebay-system, …)") && error.contains("--agent-namespace"),
            "{error}"
        );
    }
}
