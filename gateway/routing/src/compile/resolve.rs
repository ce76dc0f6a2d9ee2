//! Backends that references resolve to.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use forebay_resources::{AppProtocol, InferencePool, ObjectKey, Snapshot};
use k8s_openapi::api::core::v1::ServicePort;

use super::picker::{picker_replicas, picker_service};
use super::reference::{Found, Reference, Unresolved};
use super::{credential, rewrites};
use crate::condition::{ConditionStatus, reason};
use crate::table::{Backend, PickerAddresses, Pool, PoolPicker, ServiceBackend};

/// The `appProtocol` of Services that speak HTTP/2 without TLS (KEP-3726).
const H2C: &str = "kubernetes.io/h2c";

/// Resolves backend references. Each pool and Service port is built once per table.
pub(super) struct Resolver<'a> {
    snapshot: &'a Snapshot,
    pools: Vec<Arc<Pool>>,
    /// Positions in `pools`.
    pool_indexes: HashMap<ObjectKey, usize>,
    services: HashMap<(ObjectKey, u16), Arc<ServiceBackend>>,
}

/// Where references occur, and what is collected about them.
pub(super) struct Scope<'c> {
    /// Of the route.
    pub(super) namespace: &'c str,
    /// Receives the condition `ResolvedRefs` for each reference that does not resolve.
    pub(super) unresolved: &'c mut dyn FnMut(ConditionStatus),
    /// Receives the InferencePools that are named, whether they exist or not.
    pub(super) pools: &'c mut BTreeSet<ObjectKey>,
    /// Receives the target of each mirror. Returns the policy that closes it.
    pub(super) mirror: &'c mut dyn FnMut(Reference<'_>) -> Option<Arc<str>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, pools: Vec::new(), pool_indexes: HashMap::new(), services: HashMap::new() }
    }

    pub(super) fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    pub(super) fn into_pools(self) -> Vec<Arc<Pool>> {
        self.pools
    }

    pub(super) fn backend(&mut self, reference: Reference<'_>, scope: &mut Scope<'_>) -> Backend {
        if reference.is_to_pool() {
            scope.pools.insert(reference.key(scope.namespace));
        }
        self.resolve(scope.namespace, reference).unwrap_or_else(|it| {
            let message = format!("backendRef {}: {}", reference.name, it.message);
            (scope.unresolved)(ConditionStatus::unmet(it.reason, message));
            Backend::Invalid(it.message)
        })
    }

    /// Condition `ResolvedRefs` of the InferencePool.
    pub(super) fn pool_refs(&self, pool: &ObjectKey) -> ConditionStatus {
        let picker =
            self.snapshot.inference_pools.get(pool).and_then(|it| it.spec.endpoint_picker_ref.as_ref());
        let Some(picker) = picker else { return ConditionStatus::met(reason::RESOLVED_REFS) };
        match picker_service(&pool.namespace, picker) {
            Err(message) => ConditionStatus::unmet(reason::INVALID_EXTENSION_REF, message),
            Ok((service, _)) if !self.snapshot.services.contains_key(&service) => ConditionStatus::unmet(
                reason::INVALID_EXTENSION_REF,
                format!("the Service {service} of endpointPickerRef does not exist"),
            ),
            Ok(_) => ConditionStatus::met(reason::RESOLVED_REFS),
        }
    }

    fn resolve(&mut self, namespace: &str, reference: Reference<'_>) -> Result<Backend, Unresolved> {
        let snapshot = self.snapshot;
        Ok(match reference.find(snapshot, namespace)? {
            Found::Pool(key, object) => self.pool(key, object),
            Found::Service(key, number, port) => self.service(key, number, port),
        })
    }

    fn service(&mut self, key: ObjectKey, number: u16, port: &ServicePort) -> Backend {
        let protocol = match port.app_protocol.as_deref() {
            Some(H2C) => AppProtocol::H2c,
            _ => AppProtocol::Http,
        };
        let snapshot = self.snapshot;
        let backend = self.services.entry((key, number)).or_insert_with_key(|(key, number)| {
            let endpoints = snapshot.service_endpoints(key, *number);
            Arc::new(ServiceBackend { label: key.to_string().into(), endpoints, protocol })
        });
        Backend::Service(backend.clone())
    }

    fn pool(&mut self, key: ObjectKey, object: &InferencePool) -> Backend {
        if let Some(index) = self.pool_indexes.get(&key) {
            return Backend::Pool(self.pools[*index].clone());
        }
        let members = self.snapshot.pool_endpoints(&key);
        let mut endpoints: Vec<SocketAddr> = members.iter().map(|endpoint| endpoint.address).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let picker = match &object.spec.endpoint_picker_ref {
            None => PoolPicker::InProcess(members),
            Some(picker) => match picker_service(&key.namespace, picker) {
                // The route's reference resolves. The pool's own does not, and the pool's status reports it.
                Err(message) => return Backend::Invalid(message),
                Ok((service, port)) => {
                    let replicas = picker_replicas(self.snapshot, &service, port);
                    PoolPicker::Service(PickerAddresses {
                        namespace: key.namespace.as_str().into(),
                        replicas,
                        failure_mode: picker.failure_mode,
                    })
                }
            },
        };
        let index = self.pools.len();
        let pool = Arc::new(Pool {
            index,
            label: key.to_string().into(),
            key: key.clone(),
            endpoints,
            protocol: object.spec.app_protocol,
            picker,
            rewrites: rewrites::of_pool(self.snapshot, &key),
            models_credential: credential::of_pool(self.snapshot, &key, object),
        });
        self.pools.push(pool.clone());
        self.pool_indexes.insert(key, index);
        Backend::Pool(pool)
    }
}
