//! Backends and parents of HTTPRoutes.

use forebay_resources::{HttpRoute, ObjectKey};
use forebay_routing::{POOL_GROUP, POOL_KIND};
use gateway_api::experimental::httproutes::HttpRouteRulesBackendRefs;

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

/// The command that sets the namespace of `spec.parentRefs[index]`.
pub(super) fn patch_namespace(route: &ObjectKey, index: usize, namespace: &str) -> String {
    let ObjectKey { namespace: of_route, name } = route;
    format!(
        r#"kubectl patch httproute {name} -n {of_route} --type=json -p='[{{"op":"add","path":"/spec/parentRefs/{index}/namespace","value":"{namespace}"}}]'"#
    )
}
