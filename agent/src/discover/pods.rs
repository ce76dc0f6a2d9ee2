//! Finds the pods of this node that are members of an InferencePool.

use std::{collections::BTreeMap, net::IpAddr};

use forebay_resources::{ObjectKey, Snapshot};

/// Annotation with the uid in the cgroup name of a static pod. It differs from the uid of the mirror pod in the API
/// server.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// A pod of this node that a pool selects. It need not be Ready: it is watched from its creation, so that its first
/// request is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`
    pub uid: String,
    /// The uid in the path of its cgroup.
    pub cgroup_uid: String,
    /// `status.podIP`
    pub ip: Option<IpAddr>,
    /// Target ports of all pools that select it, ascending.
    pub ports: Vec<u16>,
}

/// Returns the pods of `node_name` that are members of any pool, ordered by namespace and name. Pods that have ended are
/// left out: another pod may have their address.
pub fn local_pods(snapshot: &Snapshot, node_name: &str) -> Vec<LocalPod> {
    let mut pods = BTreeMap::<&ObjectKey, LocalPod>::new();
    for (pool_key, pool) in &snapshot.inference_pools {
        for (key, pod) in &snapshot.pods {
            let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node_name);
            let selected = key.namespace == pool_key.namespace
                && pod.metadata.labels.as_ref().is_some_and(|labels| pool.spec.selector.matches(labels));
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let ended = matches!(phase, Some("Succeeded" | "Failed"));
            let Some(uid) = pod.metadata.uid.clone().filter(|_| here && selected && !ended) else { continue };
            let local = pods.entry(key).or_insert_with(|| LocalPod {
                key: key.clone(),
                cgroup_uid: pod
                    .metadata
                    .annotations
                    .as_ref()
                    .and_then(|annotations| annotations.get(CONFIG_HASH))
                    .unwrap_or(&uid)
                    .clone(),
                uid,
                ip: pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
                ports: Vec::new(),
            });
            local.ports.extend(pool.spec.target_ports.iter().map(|port| port.number.get()));
        }
    }
    pods.into_values()
        .map(|mut pod| {
            pod.ports.sort_unstable();
            pod.ports.dedup();
            pod
        })
        .collect()
}
