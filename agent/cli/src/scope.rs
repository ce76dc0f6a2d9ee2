//! Which pods are shown: by namespace, labels and node. Labels and pools come from the resources, not from the agents.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use forebay_resources::{
    InferencePool, Kind, ObjectKey, Snapshot, Store,
    cluster::{self, ClusterProvider, Interest, Selection},
    folder::{self, FolderProvider},
};
use forebay_telemetry::v1::EndpointKey;
use tokio::sync::watch;

use crate::{forward::Access, labels::Labels};

/// Longest wait for the labels of pods.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Selects pods, with kubectl's flags.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(skip)]
pub(crate) struct Options {
    /// Only pods of this namespace [default: all].
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Pods of all namespaces, which is the default.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only pods with these labels: name=value, name!=value, name, !name, comma-separated. Needs a cluster or --resources.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<Labels>,
    /// Only pods and GPUs of this node.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
}

/// Keeps the directory up to date until dropped.
#[derive(Debug)]
enum Source {
    Folder { _provider: FolderProvider },
    Cluster { _provider: ClusterProvider },
}

/// The options, and what the resources say about pods.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    options: Options,
    directory: Option<Directory>,
    pools: HashMap<ObjectKey, Vec<String>>,
    /// Pods with the labels of `--selector`.
    selected: HashSet<ObjectKey>,
    /// Pools without a pod, one line each.
    notices: Vec<String>,
}

#[derive(Debug)]
struct Directory {
    store: Arc<Store>,
    changes: watch::Receiver<u64>,
    _source: Source,
}

impl Scope {
    /// A scope by namespace and node. It knows no pools.
    ///
    /// # Errors
    /// If labels are to be known.
    pub(crate) fn without_resources(options: &Options) -> anyhow::Result<Self> {
        if options.selector.is_some() {
            bail!(
                "--selector needs the labels of pods, which a recording and the agents do not have: use a kubeconfig or --resources"
            );
        }
        Ok(Self { options: options.clone(), ..Self::default() })
    }

    /// A scope with the resources of the folder, or else of the cluster. If the agents are named, a cluster is asked only if
    /// it is named too or labels are needed. Pools are unknown without one.
    pub(crate) async fn start(
        options: &Options,
        folder: Option<&Path>,
        names_agents: bool,
        access: &Access,
    ) -> anyhow::Result<Self> {
        let needs_labels = options.selector.is_some();
        let store = Store::new();
        let changes = store.subscribe();
        let source = if let Some(folder) = folder {
            Source::Folder { _provider: folder::start(folder, store.clone()).await? }
        } else if !names_agents || access.is_explicit() || needs_labels {
            let client = match access.client().await {
                Err(error) if needs_labels => {
                    return Err(error)
                        .context("--selector needs the labels of pods, from a cluster or --resources");
                }
                client => client?,
            };
            Source::Cluster { _provider: cluster::start(client, interest(options), store.clone()) }
        } else {
            return Self::without_resources(options);
        };
        let directory = Directory { store, changes, _source: source };
        let mut scope = Self { options: options.clone(), directory: Some(directory), ..Self::default() };
        if needs_labels {
            scope.load().await?;
        }
        scope.refresh();
        Ok(scope)
    }

    async fn load(&self) -> anyhow::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        tokio::time::timeout(LOAD_TIMEOUT, directory.store.loaded()).await.map_err(|_| {
            anyhow::anyhow!(
                "no labels of pods within {LOAD_TIMEOUT:?}: is the API server reachable, and may you list pods in all namespaces \
                 (or in the one of --namespace)?"
            )
        })
    }

    /// Takes changes of the resources.
    pub(crate) fn refresh(&mut self) {
        let Some(directory) = &mut self.directory else { return };
        if self.pools.is_empty() || directory.changes.has_changed().unwrap_or_default() {
            directory.changes.mark_unchanged();
            let snapshot = directory.store.snapshot();
            self.pools = pools(&snapshot);
            self.notices = if self.selects() { Vec::new() } else { empty_pools(&snapshot) };
            if let Some(labels) = &self.options.selector {
                let pods = snapshot.pods.iter();
                let has = pods.filter(|(_, pod)| labels.matches(pod.metadata.labels.as_ref()));
                self.selected = has.map(|(key, _)| key.clone()).collect();
            }
        }
    }

    /// Names of the pools of a pod. Empty if it has none or if they are not known.
    pub(crate) fn pools(&self, key: &EndpointKey) -> &[String] {
        self.pools.get(&pod(key)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a pod is shown.
    pub(crate) fn has_pod(&self, node: &str, key: &EndpointKey) -> bool {
        self.has_node(node)
            && self.options.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && (self.options.selector.is_none() || self.selected.contains(&pod(key)))
    }

    /// Whether a node is shown.
    pub(crate) fn has_node(&self, node: &str) -> bool {
        self.options.node.as_ref().is_none_or(|name| name == node)
    }

    /// What is wrong with pools, one line each. Empty if only some pods are shown.
    pub(crate) fn notices(&self) -> &[String] {
        &self.notices
    }

    fn selects(&self) -> bool {
        self.selects_pods() || self.options.node.is_some()
    }

    /// Whether pods are selected. Then only their GPUs are shown.
    pub(crate) fn selects_pods(&self) -> bool {
        self.options.namespace.is_some() || self.options.selector.is_some()
    }

    /// Sets the pools of a pod.
    #[cfg(test)]
    pub(crate) fn with_pools(pools: impl IntoIterator<Item = (ObjectKey, Vec<String>)>) -> Self {
        Self { pools: pools.into_iter().collect(), ..Self::default() }
    }
}

fn pod(key: &EndpointKey) -> ObjectKey {
    ObjectKey::new(&key.namespace, &key.pod)
}

fn pools(snapshot: &Snapshot) -> HashMap<ObjectKey, Vec<String>> {
    let mut pools: HashMap<ObjectKey, Vec<String>> = HashMap::new();
    for (pool, _) in snapshot.inference_pools.iter() {
        for (pod, _) in snapshot.pool_pods(pool) {
            pools.entry(pod).or_default().push(pool.name.clone());
        }
    }
    pools
}

/// The pods of a pool with a wrong selector or of a Deployment with a wrong label are not seen by any agent. A pool in a
/// namespace without a known pod is not named: its pods may be hidden from the user.
fn empty_pools(snapshot: &Snapshot) -> Vec<String> {
    let shows_pods = |namespace: &str| snapshot.pods.keys().any(|pod| pod.namespace == namespace);
    let empty = snapshot
        .inference_pools
        .iter()
        .filter(|(key, _)| snapshot.pool_pods(key).is_empty() && shows_pods(&key.namespace));
    let notice = |(key, pool): (&ObjectKey, &Arc<InferencePool>)| {
        let labels = pool.spec.selector.match_labels.iter();
        let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value}")).collect();
        format!("InferencePool {key}: no pod has the labels {} (see `forebay check`)", labels.join(","))
    };
    empty.map(notice).collect()
}

/// The pools, and the pods that they or `--selector` select.
fn interest(options: &Options) -> Interest {
    let namespace = options.namespace.clone();
    let labels = options.selector.as_ref().map(ToString::to_string);
    let of = move |kind, in_namespace: Option<&str>| match in_namespace {
        Some(namespace) => Selection::in_namespace(kind, namespace),
        None => Selection::all(kind),
    };
    Interest::new(move |snapshot| {
        let mut selections = BTreeSet::from([of(Kind::InferencePool, namespace.as_deref()).optional()]);
        if let Some(labels) = &labels {
            selections.insert(of(Kind::Pod, namespace.as_deref()).labels(labels));
            return selections;
        }
        selections.extend(snapshot.inference_pools.iter().map(|(key, pool)| {
            of(Kind::Pod, Some(&key.namespace)).selected_by(&pool.spec.selector).optional()
        }));
        selections
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[tokio::test]
    async fn a_pool_is_empty_only_where_pods_are_known() {
        let pool = |namespace: &str, name: &str| {
            format!(
                "---\napiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {{name: {name}, namespace: \
                 {namespace}}}\nspec: {{selector: {{matchLabels: {{app: {name}}}}}, targetPorts: [{{number: 8000}}], \
                 endpointPickerRef: {{name: epp, port: {{number: 9002}}}}}}\n"
            )
        };
        let pod =
            "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: one, labels: {app: right}}\n";
        let folder = tempfile::tempdir().unwrap();
        let manifests = pool("one", "right") + &pool("one", "wrong") + &pool("two", "hidden") + pod;
        std::fs::write(folder.path().join("all.yaml"), manifests).unwrap();
        let store = Store::new();
        let _provider = folder::start(folder.path(), store.clone()).await.unwrap();
        assert_eq!(
            empty_pools(&store.snapshot()),
            ["InferencePool one/wrong: no pod has the labels app=wrong (see `forebay check`)"]
        );
    }
}
