//! References of HTTPRoutes to other namespaces, which need a ReferenceGrant.

use std::collections::BTreeSet;

use forebay_resources::{Kind, ObjectKey};
use forebay_routing::{GATEWAY_GROUP, HTTP_ROUTE, is_granted, reason};
use serde_json::json;

use super::{
    advice::{Advice, quote},
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
                findings.push(missing(installation, key, &backend));
            }
        }
    }
    findings
}

fn missing(installation: &Installation, route: &ObjectKey, backend: &BackendRef<'_>) -> Finding {
    let BackendRef { group, kind, key } = backend;
    // `create` fails if the name is taken: `apply` would take the permissions of that grant away.
    let name = format!("{}-{}", route.namespace, key.name);
    let grants = &installation.snapshot.reference_grants;
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    let name = names.find(|name| !grants.contains_key(&ObjectKey::new(&key.namespace, name))).unwrap_or(name);
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": { "name": name, "namespace": key.namespace },
        "spec": {
            "from": [{ "group": GATEWAY_GROUP, "kind": HTTP_ROUTE, "namespace": route.namespace }],
            "to": [{ "group": group, "kind": kind, "name": key.name }],
        },
    });
    let message =
        format!("refers to {kind} {key} in another namespace, and no ReferenceGrant there allows it");
    let fix = Advice::Command(format!("echo {} | kubectl create -f -", quote(&grant.to_string())));
    Finding::error(Object::new(HTTP_ROUTE, route), message, fix).because(reason::REF_NOT_PERMITTED)
}
