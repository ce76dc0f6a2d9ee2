//! What HTTPRoutes refer to.

use forebay_resources::{HttpRoute, ObjectKey};
use gateway_api::experimental::httproutes::{HttpRouteParentRefs, HttpRouteRulesBackendRefs};

pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
pub(super) const POOL_GROUP: &str = "inference.networking.k8s.io";
pub(super) const POOL_KIND: &str = "InferencePool";

/// An entry of `spec.parentRefs` that names a Gateway.
pub(super) struct Parent<'a> {
    /// In `spec.parentRefs`.
    pub(super) index: usize,
    pub(super) spec: &'a HttpRouteParentRefs,
    pub(super) gateway: ObjectKey,
}

pub(super) fn parents<'a>(key: &'a ObjectKey, route: &'a HttpRoute) -> impl Iterator<Item = Parent<'a>> {
    let specs = route.spec.parent_refs.iter().flatten().enumerate();
    specs
        .filter(|(_, spec)| {
            spec.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
                && spec.kind.as_deref().unwrap_or("Gateway") == "Gateway"
        })
        .map(|(index, spec)| {
            let namespace = spec.namespace.as_ref().unwrap_or(&key.namespace);
            Parent { index, spec, gateway: ObjectKey::new(namespace, &spec.name) }
        })
}

/// A backend of a rule.
pub(super) struct Backend<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) key: ObjectKey,
}

impl Backend<'_> {
    pub(super) fn is_pool(&self) -> bool {
        (self.group, self.kind) == (POOL_GROUP, POOL_KIND)
    }
}

pub(super) fn backends<'a>(key: &'a ObjectKey, route: &'a HttpRoute) -> impl Iterator<Item = Backend<'a>> {
    let rules = route.spec.rules.iter().flatten();
    rules.flat_map(|rule| rule.backend_refs.iter().flatten()).map(|spec: &HttpRouteRulesBackendRefs| {
        Backend {
            group: spec.group.as_deref().unwrap_or_default(),
            kind: spec.kind.as_deref().unwrap_or("Service"),
            key: ObjectKey::new(spec.namespace.as_ref().unwrap_or(&key.namespace), &spec.name),
        }
    })
}

/// The command that names a Gateway's namespace in a route's reference.
pub(super) fn patch_namespace(route: &ObjectKey, parent: &Parent<'_>, namespace: &str) -> String {
    let ObjectKey { namespace: of_route, name } = route;
    let index = parent.index;
    format!(
        r#"kubectl patch httproute {name} -n {of_route} --type=json -p='[{{"op":"add","path":"/spec/parentRefs/{index}/namespace","value":"{namespace}"}}]'"#
    )
}
