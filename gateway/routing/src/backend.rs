use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_resources::{AppProtocol, EndpointPickerRef, InferencePool, ObjectKey, PoolEndpoint, Snapshot};
use gateway_api::experimental::httproutes::{HttpRouteRules, HttpRouteRulesBackendRefs};
use k8s_openapi::api::core::v1::ServicePort;

pub use forebay_resources::FailureMode;

use super::GATEWAY_GROUP;
use super::filters::{Context, Filters};
use super::listener::HTTP_ROUTE;
use super::report::{Verdict, reason};
use super::rewrites::Rewrites;

const POOL_GROUP: &str = "inference.networking.k8s.io";
const POOL_KIND: &str = "InferencePool";
/// The `appProtocol` of Services that speak HTTP/2 without TLS (KEP-3726).
const H2C: &str = "kubernetes.io/h2c";

/// An InferencePool as one table sees it.
#[derive(Debug)]
pub struct Pool {
    pub key: ObjectKey,
    /// Position in the table's list of pools.
    pub index: usize,
    /// `namespace/name`, for labels and logs.
    pub label: Arc<str>,
    /// Ready endpoints, sorted.
    endpoints: Vec<SocketAddr>,
    pub protocol: AppProtocol,
    pub picker: PoolPicker,
    pub rewrites: Option<Rewrites>,
}

/// Who chooses among a pool's endpoints.
#[derive(Debug)]
pub enum PoolPicker {
    /// The pool names an endpoint picker.
    Service(PickerAddresses),
    /// It names none: the choice is made in this process.
    /// The ready endpoints, for the scheduler.
    InProcess(Vec<PoolEndpoint>),
}

/// Where a pool's picker is, and what happens when it is not there.
#[derive(Debug)]
pub struct PickerAddresses {
    pub replicas: Vec<SocketAddr>,
    pub failure_mode: FailureMode,
}

impl Pool {
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    pub fn has_ready(&self, endpoint: &SocketAddr) -> bool {
        self.endpoints.binary_search(endpoint).is_ok()
    }

    /// Up to `most` ready endpoints, from a random one on.
    pub fn random_endpoints(&self, most: usize) -> Vec<SocketAddr> {
        random_of(&self.endpoints, most)
    }
}

/// A Service as one table sees it.
#[derive(Debug)]
pub struct ServiceBackend {
    /// `namespace/name`, for labels and logs.
    pub label: Arc<str>,
    /// Ready endpoints, sorted.
    endpoints: Vec<SocketAddr>,
    pub protocol: AppProtocol,
}

impl ServiceBackend {
    pub(super) fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Up to `most` ready endpoints, from a random one on.
    pub fn random_endpoints(&self, most: usize) -> Vec<SocketAddr> {
        random_of(&self.endpoints, most)
    }
}

/// Where a rule's requests go.
#[derive(Clone, Debug)]
pub enum Backend {
    Pool(Arc<Pool>),
    Service(Arc<ServiceBackend>),
    /// The reference cannot be resolved, or may not be: 500, as the specification says.
    Invalid(&'static str),
}

impl Backend {
    /// Of what is there.
    pub fn label(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(pool) => Some(&pool.label),
            Self::Service(service) => Some(&service.label),
            Self::Invalid(_) => None,
        }
    }
}

/// The backends of a rule with their weights.
#[derive(Debug)]
pub struct Backends {
    weighted: Vec<Weighted>,
    total: u64,
}

/// One of a rule's backends.
#[derive(Debug)]
pub struct Weighted {
    weight: u64,
    pub backend: Backend,
    /// Those of the backendRef itself.
    pub filters: Option<Box<Filters>>,
}

static NO_WEIGHT: Weighted =
    Weighted { weight: 0, backend: Backend::Invalid("it has no backend with a weight"), filters: None };

impl Backends {
    pub fn choose(&self) -> &Weighted {
        if let [backend @ Weighted { weight: 1.., .. }] = &self.weighted[..] {
            return backend;
        }
        let Some(mut at) = random().checked_rem(self.total) else { return &NO_WEIGHT };
        for backend in &self.weighted {
            if at < backend.weight {
                return backend;
            }
            at -= backend.weight;
        }
        &NO_WEIGHT
    }

    /// With their weights.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, &Backend)> {
        self.weighted.iter().map(|weighted| (weighted.weight, &weighted.backend))
    }

    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.weighted.iter().filter_map(|weighted| match &weighted.backend {
            Backend::Pool(pool) => Some(pool),
            Backend::Service(_) | Backend::Invalid(_) => None,
        })
    }
}

fn random_of(endpoints: &[SocketAddr], most: usize) -> Vec<SocketAddr> {
    let count = endpoints.len();
    let first = (random() % count.max(1) as u64) as usize;
    endpoints.iter().cycle().skip(first).take(most.min(count)).copied().collect()
}

/// Resolves backend references; each pool and Service is built once.
pub(super) struct Resolver<'a> {
    snapshot: &'a Snapshot,
    pools: Vec<Arc<Pool>>,
    /// Positions in `pools`.
    pool_indexes: HashMap<ObjectKey, usize>,
    services: HashMap<(ObjectKey, u16), Arc<ServiceBackend>>,
}

/// Why a reference leads nowhere.
struct Unresolved {
    reason: &'static str,
    why: &'static str,
}

impl Unresolved {
    fn new(reason: &'static str, why: &'static str) -> Self {
        Self { reason, why }
    }
}

/// What a reference may be to, as HTTPRoutes give it in several places.
#[derive(Clone, Copy)]
pub(super) struct Reference<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) port: Option<i32>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, pools: Vec::new(), pool_indexes: HashMap::new(), services: HashMap::new() }
    }

    pub(super) fn into_pools(self) -> Vec<Arc<Pool>> {
        self.pools
    }

    /// `unresolved` is called with what the route's status should say; `pools` gets the InferencePools that are
    /// named, there or not. An error says what is not supported.
    pub(super) fn backends(
        &mut self,
        namespace: &str,
        rule: &HttpRouteRules,
        unresolved: &mut dyn FnMut(Verdict),
        pools: &mut BTreeSet<ObjectKey>,
    ) -> Result<Backends, String> {
        let mut weighted = Vec::new();
        for reference in rule.backend_refs.iter().flatten() {
            let weight = reference.weight.map_or(1, |weight| u64::try_from(weight).unwrap_or(0));
            let filters = match reference.filters.as_deref() {
                None | Some([]) => None,
                Some(filters) => {
                    let mut context = Context { resolver: self, namespace, unresolved, pools };
                    Some(Box::new(Filters::of_backend(filters, &mut context)?))
                }
            };
            let backend = self.backend(namespace, Reference::of_backend(reference), unresolved, pools);
            weighted.push(Weighted { weight, backend, filters });
        }
        let total = weighted.iter().map(|weighted| weighted.weight).sum();
        Ok(Backends { weighted, total })
    }

    pub(super) fn backend(
        &mut self,
        namespace: &str,
        reference: Reference<'_>,
        unresolved: &mut dyn FnMut(Verdict),
        pools: &mut BTreeSet<ObjectKey>,
    ) -> Backend {
        if reference.is_to_pool() {
            pools.insert(reference.key(namespace));
        }
        self.resolve(namespace, reference).unwrap_or_else(|it| {
            unresolved(Verdict::no(it.reason, format!("backendRef {}: {}", reference.name, it.why)));
            Backend::Invalid(it.why)
        })
    }

    /// The InferencePool's condition `ResolvedRefs`.
    pub(super) fn pool_refs(&self, pool: &ObjectKey) -> Verdict {
        let picker =
            self.snapshot.inference_pools.get(pool).and_then(|it| it.spec.endpoint_picker_ref.as_ref());
        let Some(picker) = picker else { return Verdict::yes(reason::RESOLVED_REFS) };
        match picker_service(&pool.namespace, picker) {
            Err(why) => Verdict::no(reason::INVALID_EXTENSION_REF, why),
            Ok((service, _)) if !self.snapshot.services.contains_key(&service) => Verdict::no(
                reason::INVALID_EXTENSION_REF,
                format!("the Service {service} of endpointPickerRef does not exist"),
            ),
            Ok(_) => Verdict::yes(reason::RESOLVED_REFS),
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
                // The route's reference is good; the pool's is not, and its own status says so.
                Err(why) => return Backend::Invalid(why),
                Ok((service, port)) => {
                    let replicas = self.snapshot.service_endpoints(&service, port);
                    PoolPicker::Service(PickerAddresses { replicas, failure_mode: picker.failure_mode })
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
            rewrites: Rewrites::of_pool(self.snapshot, &key),
        });
        self.pools.push(pool.clone());
        self.pool_indexes.insert(key, index);
        Backend::Pool(pool)
    }
}

/// What a reference leads to.
enum Found<'a> {
    Pool(ObjectKey, &'a InferencePool),
    Service(ObjectKey, u16, &'a ServicePort),
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

    /// What it leads to, from a route in `namespace`.
    fn find<'s>(self, snapshot: &'s Snapshot, namespace: &str) -> Result<Found<'s>, Unresolved> {
        let key = self.key(namespace);
        if !self.is_to_pool() && !self.is_to_service() {
            return Err(Unresolved::new(
                reason::INVALID_KIND,
                "only Services and InferencePools can be backends",
            ));
        }
        let from = (GATEWAY_GROUP, HTTP_ROUTE, namespace);
        if key.namespace != namespace && !is_granted(snapshot, from, (self.group(), self.kind()), &key) {
            return Err(Unresolved::new(
                reason::REF_NOT_PERMITTED,
                "no ReferenceGrant allows the route to refer to this backend",
            ));
        }
        let not_found = |why| Unresolved::new(reason::BACKEND_NOT_FOUND, why);
        if self.is_to_pool() {
            let pool = snapshot.inference_pools.get(&key);
            return Ok(Found::Pool(key, pool.ok_or_else(|| not_found("the InferencePool does not exist"))?));
        }
        let service = snapshot.services.get(&key).ok_or_else(|| not_found("the Service does not exist"))?;
        let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let port = ports
            .find(|candidate| Some(candidate.port) == self.port)
            .ok_or_else(|| not_found("the Service does not have the port"))?;
        let number = u16::try_from(port.port).map_err(|_| not_found("its port is no port"))?;
        Ok(Found::Service(key, number, port))
    }

    /// Whether it leads nowhere so far, but would if another object came or changed.
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

/// Where a pool's picker is: its Service and the port.
fn picker_service(namespace: &str, picker: &EndpointPickerRef) -> Result<(ObjectKey, u16), &'static str> {
    match (picker.group.is_empty(), picker.kind.as_str(), picker.port) {
        (true, "Service", Some(port)) => Ok((ObjectKey::new(namespace, &picker.name), port.number.get())),
        _ => Err("the pool's endpointPickerRef is not a Service with a port"),
    }
}

/// Whether a ReferenceGrant beside `key` lets objects of (group, kind, namespace) `from` refer to it as (group, kind) `to`.
pub(super) fn is_granted(
    snapshot: &Snapshot,
    from: (&str, &str, &str),
    to: (&str, &str),
    key: &ObjectKey,
) -> bool {
    snapshot.reference_grants.in_namespace(&key.namespace).any(|(_, grant)| {
        grant.spec.from.iter().any(|it| (it.group.as_str(), it.kind.as_str(), it.namespace.as_str()) == from)
            && grant.spec.to.iter().any(|it| {
                (it.group.as_str(), it.kind.as_str()) == to
                    && it.name.as_ref().is_none_or(|name| name.is_empty() || *name == key.name)
            })
    })
}

/// Numbers to spread requests with (SplitMix64); nothing secret depends on them.
pub(super) fn random() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut it = STATE.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ (it >> 31)
}
