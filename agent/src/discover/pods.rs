//! Finds the pods of this node that are members of an InferencePool.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use forebay_resources::{ObjectKey, Pod, Snapshot, has_ended, pod_ip, serving_ports};

/// Annotation with the uid in the cgroup name of a static pod. It differs from the uid of the mirror pod in the API
/// server.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation of a mirror pod, with the same value.
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotation with the source of a pod: `api` for every pod that is not static.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// A pod of this node that a pool selects. It need not be Ready: it is watched from its creation, so that its first
/// request is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`
    pub uid: String,
    /// The uid in the path of its cgroup, or why it is not known.
    pub cgroup_uid: Result<String, String>,
    /// `spec.runtimeClassName`
    pub runtime_class: Option<String>,
    /// `status.podIP`, unless another pod has it.
    pub ip: Option<IpAddr>,
    /// Target ports of all pools that select it, ascending.
    pub ports: Vec<u16>,
}

/// Returns the pods of `node_name` that are members of any pool, ordered by namespace and name. Pods that have ended are
/// left out: another pod may have their address.
pub fn local_pods(snapshot: &Snapshot, node_name: &str) -> Vec<LocalPod> {
    let is_here = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node_name);
    let mut pods = BTreeMap::<&ObjectKey, LocalPod>::new();
    for (pool_key, pool) in &snapshot.inference_pools {
        for (key, pod) in &snapshot.pods {
            let selected = key.namespace == pool_key.namespace
                && pod.metadata.labels.as_ref().is_some_and(|labels| pool.spec.selector.matches(labels));
            let is_local = selected && is_here(pod) && !has_ended(pod);
            let Some(uid) = pod.metadata.uid.clone().filter(|_| is_local) else { continue };
            let local = pods.entry(key).or_insert_with(|| LocalPod {
                key: key.clone(),
                cgroup_uid: Ok(cgroup_uid(pod, node_name).unwrap_or(&uid).to_owned()),
                uid,
                runtime_class: pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone()),
                ip: pod_ip(pod).filter(|_| snapshot.address_holder(pod).is_none()),
                ports: Vec::new(),
            });
            local.ports.extend(serving_ports(pool, pod));
        }
    }
    let mut claims = HashMap::<&str, usize>::new();
    for (_, pod) in snapshot.pods.iter().filter(|(_, pod)| is_here(pod) && !has_ended(pod)) {
        if let Some(uid) = cgroup_uid(pod, node_name) {
            *claims.entry(uid).or_default() += 1;
        }
    }
    pods.into_values()
        .map(|mut pod| {
            pod.ports.sort_unstable();
            pod.ports.dedup();
            if let Ok(uid) = &pod.cgroup_uid
                && claims.get(uid.as_str()).is_some_and(|count| *count > 1)
            {
                pod.cgroup_uid =
                    Err(format!("several pods of the node claim the cgroup of {uid} ({CONFIG_HASH})"));
            }
            pod
        })
        .collect()
}

/// The uid in the path of a pod's cgroup: its own, or the hash of the static pod that it mirrors.
fn cgroup_uid<'a>(pod: &'a Pod, node_name: &str) -> Option<&'a str> {
    mirrored(pod, node_name).or(pod.metadata.uid.as_deref())
}

/// The hash of the static pod of which this is the mirror pod.
///
/// Everyone who creates pods may set annotations. A mirror pod of the kubelet has the annotation `config.mirror` with the
/// value of `config.hash`, a source other than `api`, and its Node as the owner and controller (kubelet,
/// `pkg/kubelet/pod/mirror_client.go`; the admission plugin NodeRestriction lets a node create no other pods).
fn mirrored<'a>(pod: &'a Pod, node_name: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let hash = annotations.get(CONFIG_HASH)?;
    let is_static = annotations.get(CONFIG_SOURCE).is_some_and(|source| source != "api");
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let is_owned_by_node = matches!(owners, [owner] if owner.kind == "Node" && owner.api_version == "v1"
        && owner.name == node_name && owner.controller == Some(true));
    let is_mirror = annotations.get(CONFIG_MIRROR) == Some(hash) && is_static && is_owned_by_node;
    is_mirror.then_some(hash)
}

#[cfg(test)]
mod tests {
    use forebay_resources::folder;

    use super::*;

    const POOL: &str = "apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: qwen, namespace: a }
spec: { selector: { matchLabels: { app: qwen } }, targetPorts: [{ number: 8000 }], endpointPickerRef: { name: e, port: { number: 9002 } } }
";

    fn pod(name: &str, app: &str, metadata: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: a, uid: uid-{name}, labels: {{ app: {app} }}{metadata} }}\n\
             spec: {{ nodeName: n, containers: [] }}\n"
        )
    }

    async fn cgroup_uids(pods: &[String]) -> Vec<Result<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.yaml"), format!("{POOL}{}", pods.concat())).unwrap();
        let store = forebay_resources::Store::new();
        let _provider = folder::start(folder.path().to_owned(), store.clone()).await.unwrap();
        local_pods(&store.snapshot(), "n").into_iter().map(|pod| pod.cgroup_uid).collect()
    }

    const OWNER: &str =
        "ownerReferences: [{ apiVersion: v1, kind: Node, name: n, uid: u, controller: true }]";

    fn annotations(hash: &str, mirror: &str, source: &str, owner: &str) -> String {
        format!(
            ", {owner}, annotations: {{ kubernetes.io/config.hash: {hash}, kubernetes.io/config.mirror: {mirror}, kubernetes.io/config.source: {source} }}"
        )
    }

    #[tokio::test]
    async fn only_mirror_pods_have_the_cgroup_of_their_hash() {
        let mirror = annotations("hash", "hash", "file", OWNER);
        assert_eq!(cgroup_uids(&[pod("p", "qwen", &mirror)]).await, [Ok("hash".into())]);
        let other_node = OWNER.replace("name: n", "name: other");
        let replica_set = OWNER.replace("v1, kind: Node", "apps/v1, kind: ReplicaSet");
        for claim in [
            ", annotations: { kubernetes.io/config.hash: hash }".to_owned(),
            annotations("hash", "other", "file", OWNER),
            annotations("hash", "hash", "api", OWNER),
            annotations("hash", "hash", "file", "ownerReferences: []"),
            annotations("hash", "hash", "file", &other_node),
            annotations("hash", "hash", "file", &replica_set),
        ] {
            assert_eq!(cgroup_uids(&[pod("p", "qwen", &claim)]).await, [Ok("uid-p".into())], "{claim}");
        }
    }

    #[tokio::test]
    async fn two_claims_on_one_cgroup_are_both_unusable() {
        let mirror = annotations("uid-victim", "uid-victim", "file", OWNER);
        let [a, b] = ["qwen", "other"].map(|app| [pod("thief", "qwen", &mirror), pod("victim", app, "")]);
        for (pods, count) in [(a, 2), (b, 1)] {
            let uids = cgroup_uids(&pods).await;
            assert_eq!(uids.len(), count);
            for uid in uids {
                assert!(uid.unwrap_err().contains("several pods of the node claim the cgroup of uid-victim"));
            }
        }
    }
}
