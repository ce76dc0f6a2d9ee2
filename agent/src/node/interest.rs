//! What the agent needs to know of a cluster.

use forebay_resources::{
    Kind,
    cluster::{FOLLOW, Interest, Rule, Selection},
};

/// Its ClusterRole: RBAC cannot tell the pods of one node from those of another.
pub const RULES: &[Rule] = &[
    Rule { api_groups: &[""], resources: &["pods"], verbs: FOLLOW },
    Rule { api_groups: &["inference.networking.k8s.io"], resources: &["inferencepools"], verbs: FOLLOW },
];

/// Its Role in its own namespace, limited to the DaemonSet that `--keep-pins-while` names.
pub const OWNER_RULES: &[Rule] =
    &[Rule { api_groups: &["apps"], resources: &["daemonsets"], verbs: &["get"] }];

/// The pods of its node, and all pools.
pub fn interest(node_name: &str) -> Interest {
    let pods = Selection::all(Kind::Pod).fields(format!("spec.nodeName={node_name}"));
    Interest::new(move |_| [pods.clone(), Selection::all(Kind::InferencePool)].into())
}
