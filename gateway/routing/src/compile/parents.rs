//! Gateways that an HTTPRoute names.

use forebay_resources::{HttpRoute, ObjectKey};
use gateway_api::experimental::httproutes::HttpRouteParentRefs;

use crate::names::GATEWAY_GROUP;

/// The entries of `spec.parentRefs` that name a Gateway: position, Gateway, entry.
pub fn gateway_parents<'a>(
    key: &'a ObjectKey,
    route: &'a HttpRoute,
) -> impl Iterator<Item = (usize, ObjectKey, &'a HttpRouteParentRefs)> {
    let is_gateway = |parent: &&HttpRouteParentRefs| {
        parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
            && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
    };
    let parents = route.spec.parent_refs.iter().flatten().enumerate();
    parents.filter(move |(_, parent)| is_gateway(parent)).map(|(index, parent)| {
        let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
        (index, ObjectKey::new(namespace, &parent.name), parent)
    })
}
