//! What writing needs of a cluster's RBAC, beside [`READ_RULES`](crate::READ_RULES).

use forebay_resources::cluster::Rule;

const PATCH: &[&str] = &["patch"];

/// The writing half of the gateway's ClusterRole.
pub const STATUS_RULES: &[Rule] = &[
    Rule {
        api_groups: &["gateway.networking.k8s.io"],
        resources: &["gatewayclasses/status", "gateways/status", "httproutes/status"],
        verbs: PATCH,
    },
    Rule {
        api_groups: &["inference.networking.k8s.io"],
        resources: &["inferencepools/status"],
        verbs: PATCH,
    },
    // Objects of the older group say nothing.
    Rule { api_groups: &["llm-d.ai"], resources: &["inferencemodelrewrites/status"], verbs: PATCH },
    Rule { api_groups: &["agentgateway.dev"], resources: &["agentgatewaypolicies/status"], verbs: PATCH },
];

/// The gateway's Role in its own namespace.
pub const WRITE_RULES: &[Rule] = &[
    Rule {
        api_groups: &["coordination.k8s.io"],
        resources: &["leases"],
        verbs: &["create", "get", "update"],
    },
    Rule { api_groups: &[""], resources: &["services"], verbs: &["create", "delete", "patch"] },
    // From its own pod to the Deployment that owns the Services.
    Rule { api_groups: &[""], resources: &["pods"], verbs: &["get"] },
    Rule { api_groups: &["apps"], resources: &["replicasets"], verbs: &["get"] },
];
