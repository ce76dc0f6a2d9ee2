//! The resources that the agent watches, and the permissions that it needs.

use forebay_resources::{
    Kind,
    cluster::{FOLLOW, Interest, Rule, Selection},
};

/// Rules of the agent's ClusterRole. RBAC cannot restrict them to the pods of one node.
pub const RULES: &[Rule] = &[
    Rule { api_groups: &[""], resources: &["pods"], verbs: FOLLOW },
    Rule { api_groups: &["inference.networking.k8s.io"], resources: &["inferencepools"], verbs: FOLLOW },
];

/// Rules of the agent's Role in its own namespace, limited to the DaemonSet of `--keep-pins-while`.
pub const OWNER_RULES: &[Rule] =
    &[Rule { api_groups: &["apps"], resources: &["daemonsets"], verbs: &["get"] }];

/// Watches the pods of the node, and all InferencePools.
pub fn interest(node_name: &str) -> Interest {
    let pods = Selection::all(Kind::Pod).fields(format!("spec.nodeName={node_name}"));
    Interest::new(move |_| [pods.clone(), Selection::all(Kind::InferencePool)].into())
}
