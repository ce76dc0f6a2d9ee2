//! ReferenceGrants.

use forebay_resources::{ObjectKey, Snapshot};

/// Whether a ReferenceGrant in the namespace of `key` lets objects of `from` (group, kind, namespace) refer
/// to the object `key` of kind `to` (group, kind).
pub fn is_granted(snapshot: &Snapshot, from: (&str, &str, &str), to: (&str, &str), key: &ObjectKey) -> bool {
    snapshot.reference_grants.in_namespace(&key.namespace).any(|(_, grant)| {
        grant.spec.from.iter().any(|it| (it.group.as_str(), it.kind.as_str(), it.namespace.as_str()) == from)
            && grant.spec.to.iter().any(|it| {
                (it.group.as_str(), it.kind.as_str()) == to
                    && it.name.as_ref().is_none_or(|name| name.is_empty() || *name == key.name)
            })
    })
}
