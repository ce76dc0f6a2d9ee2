//! CRDs of the kinds that Forebay reads, generated from its types.

use forebay_resources::{
    AgentgatewayPolicy, Gateway, GatewayClass, HttpRoute, InferenceModelRewrite, InferenceObjective,
    InferencePool, Quota, ReferenceGrant,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::json;

/// CRDs of all custom kinds, in the preferred group and version.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![
        GatewayClass::crd(),
        Gateway::crd(),
        HttpRoute::crd(),
        ReferenceGrant::crd(),
        InferencePool::crd(),
        InferenceObjective::crd(),
        InferenceModelRewrite::crd(),
        AgentgatewayPolicy::crd(),
        Quota::crd(),
    ];
    for definition in &mut definitions {
        if definition.spec.group.ends_with(".k8s.io") {
            // The API server requires this annotation for groups below k8s.io.
            let approved = ("api-approved.kubernetes.io".to_owned(), "unapproved, for tests".to_owned());
            definition.metadata.annotations.get_or_insert_default().extend([approved]);
        }
    }
    definitions
}

/// A CRD with one version that accepts objects of any shape.
///
/// # Panics
/// Never: the definition is well-formed.
pub fn open_crd(group: &str, version: &str, kind: &str, plural: &str) -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": { "api-approved.kubernetes.io": "unapproved, for tests" },
        },
        "spec": {
            "group": group,
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") },
            "scope": "Namespaced",
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "schema": {
                    "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                },
            }],
        },
    }))
    .expect("a well-formed definition")
}
