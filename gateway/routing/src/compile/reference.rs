//! References from HTTPRoutes to backends.

use forebay_resources::{InferencePool, ObjectKey, Snapshot};
use gateway_api::experimental::httproutes::HttpRouteRulesBackendRefs;
use k8s_openapi::api::core::v1::ServicePort;

use super::grants::is_granted;
use crate::condition::reason;
use crate::names::{GATEWAY_GROUP, HTTP_ROUTE, POOL_GROUP, POOL_KIND};

/// API group of InferencePools before v1.0 of the Inference Extension.
const OLD_POOL_GROUP: &str = "inference.networking.x-k8s.io";

/// A backend reference, as HTTPRoutes have it in several types.
#[derive(Clone, Copy)]
pub(super) struct Reference<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) port: Option<i32>,
}

/// The object that a reference resolves to.
pub(super) enum Found<'a> {
    Pool(ObjectKey, &'a InferencePool),
    Service(ObjectKey, u16, &'a ServicePort),
}

/// Why a reference does not resolve.
pub(super) struct Unresolved {
    /// Reason of the condition `ResolvedRefs`.
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

impl Unresolved {
    fn new(reason: &'static str, message: &'static str) -> Self {
        Self { reason, message }
    }
}

impl<'a> Reference<'a> {
    pub(super) fn of_backend(reference: &'a HttpRouteRulesBackendRefs) -> Self {
        Self {
            group: reference.group.as_deref(),
            kind: reference.kind.as_deref(),
            namespace: reference.namespace.as_deref(),
            name: &reference.name,
            port: reference.port,
        }
    }

    /// Resolves the reference of a route in `namespace`.
    pub(super) fn find<'s>(self, snapshot: &'s Snapshot, namespace: &str) -> Result<Found<'s>, Unresolved> {
        let key = self.key(namespace);
        if !self.is_to_pool() && !self.is_to_service() {
            let message = if (self.group(), self.kind()) == (OLD_POOL_GROUP, POOL_KIND) {
                "InferencePools of the group inference.networking.x-k8s.io are not served; use inference.networking.k8s.io"
            } else {
                "only Services and InferencePools can be backends"
            };
            return Err(Unresolved::new(reason::INVALID_KIND, message));
        }
        let from = (GATEWAY_GROUP, HTTP_ROUTE, namespace);
        if key.namespace != namespace && !is_granted(snapshot, from, (self.group(), self.kind()), &key) {
            return Err(Unresolved::new(
                reason::REF_NOT_PERMITTED,
                "no ReferenceGrant allows the route to refer to this backend",
            ));
        }
        let not_found = |message| Unresolved::new(reason::BACKEND_NOT_FOUND, message);
        if self.is_to_pool() {
            let pool = snapshot.inference_pools.get(&key);
            return Ok(Found::Pool(key, pool.ok_or_else(|| not_found("the InferencePool does not exist"))?));
        }
        let service = snapshot.services.get(&key).ok_or_else(|| not_found("the Service does not exist"))?;
        let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let port = ports
            .find(|candidate| Some(candidate.port) == self.port)
            .ok_or_else(|| not_found("the Service does not have the port"))?;
        let number = u16::try_from(port.port).map_err(|_| not_found("the Service's port is out of range"))?;
        Ok(Found::Service(key, number, port))
    }

    /// Whether the reference does not resolve now, but may after a change of another object.
    pub(super) fn is_dangling(self, snapshot: &Snapshot, namespace: &str) -> bool {
        self.find(snapshot, namespace).is_err_and(|it| it.reason != reason::INVALID_KIND)
    }

    fn group(&self) -> &str {
        self.group.unwrap_or_default()
    }

    fn kind(&self) -> &str {
        self.kind.unwrap_or("Service")
    }

    pub(super) fn is_to_pool(&self) -> bool {
        (self.group(), self.kind()) == (POOL_GROUP, POOL_KIND)
    }

    pub(super) fn is_to_service(&self) -> bool {
        (self.group(), self.kind()) == ("", "Service")
    }

    pub(super) fn key(&self, route_namespace: &str) -> ObjectKey {
        ObjectKey::new(self.namespace.unwrap_or(route_namespace), self.name)
    }
}
