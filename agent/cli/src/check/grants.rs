//! References of HTTPRoutes into other namespaces, which those must allow.

use std::collections::BTreeSet;

use forebay_resources::{Kind, ObjectKey, Snapshot};
use serde_json::json;

use super::{
    finding::{Finding, Place},
    installation::Installation,
    references::{Backend, GATEWAY_GROUP, backends},
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
            if backend.key.namespace != key.namespace
                && !is_granted(snapshot, &key.namespace, &backend)
                && seen.insert((key, backend.kind.to_owned(), backend.key.clone()))
            {
                findings.push(missing(key, &backend));
            }
        }
    }
    findings
}

fn is_granted(snapshot: &Snapshot, from: &str, backend: &Backend<'_>) -> bool {
    snapshot.reference_grants.in_namespace(&backend.key.namespace).any(|(_, grant)| {
        let is_from = grant
            .spec
            .from
            .iter()
            .any(|it| it.group == GATEWAY_GROUP && it.kind == "HTTPRoute" && it.namespace == from);
        is_from
            && grant.spec.to.iter().any(|it| {
                it.group == backend.group
                    && it.kind == backend.kind
                    && it.name.as_ref().is_none_or(|name| name.is_empty() || *name == backend.key.name)
            })
    })
}

fn missing(route: &ObjectKey, backend: &Backend<'_>) -> Finding {
    let Backend { group, kind, key } = backend;
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": { "name": format!("{}-{}", route.namespace, key.name), "namespace": key.namespace },
        "spec": {
            "from": [{ "group": GATEWAY_GROUP, "kind": "HTTPRoute", "namespace": route.namespace }],
            "to": [{ "group": group, "kind": kind, "name": key.name }],
        },
    });
    let what = format!("refers to {kind} {key} in another namespace, and no ReferenceGrant there allows it");
    Finding::error(Place::new("HTTPRoute", route), what, format!("echo '{grant}' | kubectl apply -f -"))
}
