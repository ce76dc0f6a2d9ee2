//! References of HTTPRoutes to other namespaces, which need a ReferenceGrant.

use std::collections::BTreeSet;

use forebay_resources::{Kind, ObjectKey};
use forebay_routing::{GATEWAY_GROUP, HTTP_ROUTE, is_granted, reason};
use serde_json::json;

use super::{
    finding::{Finding, Object},
    installation::Installation,
    references::{BackendRef, backends},
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows_all([Kind::HttpRoute, Kind::ReferenceGrant]) {
        return Vec::new();
    }
    let snapshot = &installation.snapshot;
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (key, route) in &snapshot.http_routes {
        for backend in backends(key, route) {
            let from = (GATEWAY_GROUP, HTTP_ROUTE, key.namespace.as_str());
            if backend.key.namespace != key.namespace
                && !is_granted(snapshot, from, (backend.group, backend.kind), &backend.key)
                && seen.insert((key, backend.kind.to_owned(), backend.key.clone()))
            {
                findings.push(missing(key, &backend));
            }
        }
    }
    findings
}

fn missing(route: &ObjectKey, backend: &BackendRef<'_>) -> Finding {
    let BackendRef { group, kind, key } = backend;
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": { "name": format!("{}-{}", route.namespace, key.name), "namespace": key.namespace },
        "spec": {
            "from": [{ "group": GATEWAY_GROUP, "kind": HTTP_ROUTE, "namespace": route.namespace }],
            "to": [{ "group": group, "kind": kind, "name": key.name }],
        },
    });
    let message =
        format!("refers to {kind} {key} in another namespace, and no ReferenceGrant there allows it");
    Finding::error(Object::new(HTTP_ROUTE, route), message, format!("echo '{grant}' | kubectl apply -f -"))
        .because(reason::REF_NOT_PERMITTED)
}
