//! RBAC rules for writes. [`READ_RULES`](crate::READ_RULES) has the rules for reads.

use forebay_resources::cluster::Rule;

const PATCH: &[&str] = &["patch"];

/// Rules of the ClusterRole for statuses.
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
    // Objects of the older API group get no status.
    Rule { api_groups: &["llm-d.ai"], resources: &["inferencemodelrewrites/status"], verbs: PATCH },
    Rule { api_groups: &["agentgateway.dev"], resources: &["agentgatewaypolicies/status"], verbs: PATCH },
    Rule { api_groups: &["forebay.dev"], resources: &["quotas/status"], verbs: PATCH },
    // Changes of conditions, in the namespaces of the objects. A repeated Event is counted with `patch`.
    Rule { api_groups: &["events.k8s.io"], resources: &["events"], verbs: &["create", "patch"] },
];

/// Rules of the Role in the namespace of the gateway.
pub const WRITE_RULES: &[Rule] = &[
    Rule {
        api_groups: &["coordination.k8s.io"],
        resources: &["leases"],
        verbs: &["create", "get", "update"],
    },
    Rule { api_groups: &[""], resources: &["services"], verbs: &["create", "delete", "patch"] },
    // To find the Deployment that owns the Services.
    Rule { api_groups: &[""], resources: &["pods"], verbs: &["get"] },
    Rule { api_groups: &["apps"], resources: &["replicasets"], verbs: &["get"] },
];
