//! Removes fields that no reader needs from objects before they are cached.

use serde_json::{Map, Value, map::Entry};

use crate::Kind;

/// Annotation of kubectl with a copy of the manifest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Pod annotations that are read: those of mirror pods of static pods, and the active ports of the pool.
const POD_ANNOTATIONS: [&str; 5] = [
    "kubernetes.io/config.hash",
    "kubernetes.io/config.mirror",
    "kubernetes.io/config.source",
    "llm-d.ai/active-ports",
    "inference.networking.k8s.io/active-ports",
];

/// Keeps the fields that readers of a [`Snapshot`](crate::Snapshot) need. Returns the status of kinds whose status is
/// kept apart, else null.
pub(super) fn prune(kind: Kind, object: &mut Value) -> Value {
    let Value::Object(object) = object else { return Value::Null };
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        prune_metadata(kind, metadata);
    }
    match kind {
        Kind::GatewayClass
        | Kind::Gateway
        | Kind::HttpRoute
        | Kind::ReferenceGrant
        | Kind::BackendTlsPolicy
        | Kind::InferencePool
        | Kind::InferenceObjective
        | Kind::InferenceModelRewrite
        | Kind::AgentgatewayPolicy
        | Kind::Quota => object.remove("status").unwrap_or_default(),
        Kind::Pod => {
            keep(object.entry("spec"), &["hostNetwork", "nodeName", "runtimeClassName"]);
            keep(object.entry("status"), &["conditions", "phase", "podIP", "startTime"]);
            if let Some(Value::Array(conditions)) =
                object.get_mut("status").and_then(|it| it.get_mut("conditions"))
            {
                conditions.retain(|condition| condition.get("type").is_some_and(|kind| kind == "Ready"));
                for condition in conditions {
                    if let Value::Object(condition) = condition {
                        // Probe times change with every probe.
                        condition.retain(|name, _| matches!(name.as_str(), "type" | "status"));
                    }
                }
            }
            Value::Null
        }
        Kind::Service => {
            keep(
                object.entry("spec"),
                &["clusterIP", "clusterIPs", "externalName", "ports", "selector", "type"],
            );
            keep(object.entry("status"), &["loadBalancer"]);
            Value::Null
        }
        Kind::EndpointSlice => {
            if let Some(Value::Array(endpoints)) = object.get_mut("endpoints") {
                for endpoint in endpoints {
                    if let Value::Object(endpoint) = endpoint {
                        endpoint.retain(|name, _| {
                            matches!(name.as_str(), "addresses" | "conditions" | "nodeName")
                        });
                    }
                }
            }
            Value::Null
        }
        Kind::Namespace => {
            object.remove("spec");
            object.remove("status");
            Value::Null
        }
        Kind::ConfigMap | Kind::Secret => Value::Null,
    }
}

fn prune_metadata(kind: Kind, metadata: &mut Map<String, Value>) {
    for name in ["managedFields", "resourceVersion", "selfLink"] {
        metadata.remove(name);
    }
    match kind {
        // These change without a change that matters to readers.
        Kind::Pod => {
            for name in ["finalizers", "generateName", "generation"] {
                metadata.remove(name);
            }
            prune_owners(metadata);
        }
        Kind::EndpointSlice => {
            for name in ["annotations", "generateName", "generation", "ownerReferences"] {
                metadata.remove(name);
            }
        }
        Kind::Namespace => drop(metadata.remove("annotations")),
        _ => {}
    }
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|name, _| match kind {
            Kind::Pod => POD_ANNOTATIONS.contains(&name.as_str()),
            _ => name != LAST_APPLIED,
        });
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

/// Keeps owners of the kind Node: they identify mirror pods.
fn prune_owners(metadata: &mut Map<String, Value>) {
    let Some(owners) = metadata.get_mut("ownerReferences") else { return };
    let has_some = owners.as_array_mut().is_some_and(|owners| {
        owners.retain(|owner| owner.get("kind").is_some_and(|kind| kind == "Node"));
        !owners.is_empty()
    });
    if !has_some {
        metadata.remove("ownerReferences");
    }
}

fn keep(part: Entry<'_>, fields: &[&str]) {
    if let Entry::Occupied(mut part) = part
        && let Value::Object(part) = part.get_mut()
    {
        part.retain(|name, _| fields.contains(&name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keeps_node_labels_and_readiness_of_pods() {
        let mut pod = json!({
            "metadata": {
                "name": "qwen-0", "namespace": "llm-d", "uid": "u", "resourceVersion": "7", "generation": 1,
                "labels": { "app": "qwen" }, "ownerReferences": [{ "kind": "ReplicaSet" }], "managedFields": [{}],
                "annotations": { "kubernetes.io/config.hash": "h", "example.com/big": "x" },
            },
            "spec": { "nodeName": "a", "runtimeClassName": "gvisor", "containers": [{ "name": "vllm" }] },
            "status": {
                "podIP": "10.0.0.1", "phase": "Running", "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [{}],
                "conditions": [
                    { "type": "PodScheduled", "status": "True" },
                    { "type": "Ready", "status": "True", "lastProbeTime": "2026-01-01T00:00:00Z" },
                ],
            },
        });
        assert_eq!(prune(Kind::Pod, &mut pod), Value::Null);
        assert_eq!(
            pod,
            json!({
                "metadata": {
                    "name": "qwen-0", "namespace": "llm-d", "uid": "u",
                    "labels": { "app": "qwen" }, "annotations": { "kubernetes.io/config.hash": "h" },
                },
                "spec": { "nodeName": "a", "runtimeClassName": "gvisor" },
                "status": {
                    "podIP": "10.0.0.1", "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
                    "conditions": [{ "type": "Ready", "status": "True" }],
                },
            })
        );
    }

    #[test]
    fn keeps_what_identifies_mirror_pods() {
        let metadata = json!({
            "annotations": {
                "kubernetes.io/config.hash": "h", "kubernetes.io/config.mirror": "h", "kubernetes.io/config.source": "file",
            },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true }],
        });
        let mut pod = json!({ "metadata": metadata });
        prune(Kind::Pod, &mut pod);
        assert_eq!(pod["metadata"], metadata);
    }

    #[test]
    fn separates_route_status_and_keeps_generation() {
        let mut route = json!({
            "metadata": { "name": "r", "generation": 3, "annotations": { LAST_APPLIED: "{}" } },
            "spec": { "hostnames": ["a"] },
            "status": { "parents": [] },
        });
        assert_eq!(prune(Kind::HttpRoute, &mut route), json!({ "parents": [] }));
        assert_eq!(
            route,
            json!({ "metadata": { "name": "r", "generation": 3 }, "spec": { "hostnames": ["a"] } })
        );
    }

    #[test]
    fn ignores_values_that_are_not_objects() {
        for mut odd in [json!(null), json!([1]), json!({ "metadata": 1, "spec": [], "status": "x" })] {
            prune(Kind::Pod, &mut odd);
        }
    }
}
