//! Backends and parents of HTTPRoutes.

use forebay_resources::{HttpRoute, ObjectKey};
use forebay_routing::{POOL_GROUP, POOL_KIND};
use gateway_api::experimental::httproutes::HttpRouteRulesBackendRefs;
use serde_json::json;

use super::advice::{Advice, quote};

/// A backendRef of a rule.
pub(super) struct BackendRef<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) key: ObjectKey,
}

impl BackendRef<'_> {
    pub(super) fn is_pool(&self) -> bool {
        (self.group, self.kind) == (POOL_GROUP, POOL_KIND)
    }
}

pub(super) fn backends<'a>(key: &'a ObjectKey, route: &'a HttpRoute) -> impl Iterator<Item = BackendRef<'a>> {
    let rules = route.spec.rules.iter().flatten();
    rules.flat_map(|rule| rule.backend_refs.iter().flatten()).map(|spec: &HttpRouteRulesBackendRefs| {
        BackendRef {
            group: spec.group.as_deref().unwrap_or_default(),
            kind: spec.kind.as_deref().unwrap_or("Service"),
            key: ObjectKey::new(spec.namespace.as_ref().unwrap_or(&key.namespace), &spec.name),
        }
    })
}

/// Sets the namespace of `spec.parentRefs[index]`. Fails if the entry has another name by then.
pub(super) fn patch_namespace(route: &ObjectKey, index: usize, gateway: &ObjectKey) -> Advice {
    let entry = format!("/spec/parentRefs/{index}");
    let patch = json!([
        { "op": "test", "path": format!("{entry}/name"), "value": gateway.name },
        { "op": "add", "path": format!("{entry}/namespace"), "value": gateway.namespace },
    ]);
    let (namespace, name) = (quote(&route.namespace), quote(&route.name));
    let patch = quote(&patch.to_string());
    Advice::Command(format!("kubectl patch httproute {name} -n {namespace} --type=json -p={patch}"))
}
