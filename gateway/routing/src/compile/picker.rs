//! The Service of a pool's endpoint picker.

use std::net::SocketAddr;

use forebay_resources::{EndpointPickerRef, ObjectKey, Snapshot};

use super::grants::is_granted;
use crate::names::{POOL_GROUP, POOL_KIND};

/// Service and port of a pool's endpoint picker.
pub(super) fn picker_service(
    namespace: &str,
    picker: &EndpointPickerRef,
) -> Result<(ObjectKey, u16), &'static str> {
    match (picker.group.is_empty(), picker.kind.as_str(), picker.port) {
        (true, "Service", Some(port)) => Ok((ObjectKey::new(namespace, &picker.name), port.number.get())),
        _ => Err("the pool's endpointPickerRef is not a Service with a port"),
    }
}

/// Where a shared picker is: an `endpointPickerRef` names a Service of its own namespace, and that one is an external name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PickerTarget {
    /// The Service itself.
    Own,
    /// The Service that it is an external name for.
    Shared(ObjectKey),
    /// An external name that does not name a Service of the cluster.
    Unknown(String),
    /// A Service of another namespace without a ReferenceGrant there.
    NotGranted(ObjectKey),
}

/// Follows a Service of type ExternalName to the Service `NAME.NAMESPACE.svc…` that it names. One of another namespace needs a
/// ReferenceGrant for InferencePools there: otherwise who can create a Service could send to any Service of the cluster that
/// the gateway reaches.
pub(super) fn picker_target(snapshot: &Snapshot, service: &ObjectKey) -> PickerTarget {
    let spec = snapshot.services.get(service).and_then(|it| it.spec.as_ref());
    let Some(spec) = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName")) else {
        return PickerTarget::Own;
    };
    let external = spec.external_name.clone().unwrap_or_default();
    let Some(target) = named_service(&external) else { return PickerTarget::Unknown(external) };
    let from = (POOL_GROUP, POOL_KIND, service.namespace.as_str());
    if target.namespace != service.namespace && !is_granted(snapshot, from, ("", "Service"), &target) {
        return PickerTarget::NotGranted(target);
    }
    PickerTarget::Shared(target)
}

fn named_service(name: &str) -> Option<ObjectKey> {
    let mut labels = name.trim_end_matches('.').split('.');
    let (name, namespace, svc) = (labels.next()?, labels.next()?, labels.next()?);
    (svc == "svc" && !name.is_empty() && !namespace.is_empty()).then(|| ObjectKey::new(namespace, name))
}

/// Ready addresses of a pool's endpoint picker.
pub(super) fn picker_replicas(snapshot: &Snapshot, service: &ObjectKey, port: u16) -> Vec<SocketAddr> {
    match picker_target(snapshot, service) {
        PickerTarget::Own => snapshot.service_endpoints(service, port),
        PickerTarget::Shared(target) => snapshot.service_endpoints(&target, port),
        PickerTarget::Unknown(_) | PickerTarget::NotGranted(_) => Vec::new(),
    }
}
