use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_agent::resources::{AppProtocol, ObjectKey, PoolEndpoint, Snapshot};
use forebay_epp::schedule::Scheduler;
use gateway_api::httproutes::{HttpRouteRules, HttpRouteRulesBackendRefs};

pub(crate) use forebay_agent::resources::FailureMode;

const POOL_GROUP: &str = "inference.networking.k8s.io";
const POOL_KIND: &str = "InferencePool";
const ROUTE_GROUP: &str = "gateway.networking.k8s.io";
const ROUTE_KIND: &str = "HTTPRoute";

/// An InferencePool as one table sees it.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) key: ObjectKey,
    /// `namespace/name`, for labels and logs.
    pub(crate) label: Arc<str>,
    /// Ready endpoints, sorted.
    endpoints: Vec<SocketAddr>,
    pub(crate) picker: PoolPicker,
}

/// Who chooses among a pool's endpoints.
#[derive(Debug)]
pub(crate) enum PoolPicker {
    /// The pool names an endpoint picker.
    Service(PickerAddresses),
    /// It names none: the choice is made in this process.
    InProcess(Arc<Scheduler>),
}

/// Where a pool's picker is, and what happens when it is not there.
#[derive(Debug)]
pub(crate) struct PickerAddresses {
    pub(crate) replicas: Vec<SocketAddr>,
    pub(crate) failure_mode: FailureMode,
}

impl Pool {
    pub(crate) fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    pub(crate) fn has_ready(&self, endpoint: &SocketAddr) -> bool {
        self.endpoints.binary_search(endpoint).is_ok()
    }

    /// Up to `most` ready endpoints, from a random one on.
    pub(crate) fn random_endpoints(&self, most: usize) -> Vec<SocketAddr> {
        let count = self.endpoints.len();
        let first = (random() % count.max(1) as u64) as usize;
        self.endpoints.iter().cycle().skip(first).take(most.min(count)).copied().collect()
    }
}

/// Where a rule's requests go.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    Pool(Arc<Pool>),
    /// The reference cannot be resolved, or may not be: 500, as the specification says.
    Unresolved(&'static str),
    /// A kind of backend that is not served: 503.
    Unsupported(&'static str),
}

/// The backends of a rule with their weights.
#[derive(Debug)]
pub(super) struct Backends {
    weighted: Vec<(u64, Backend)>,
    total: u64,
}

impl Backends {
    pub(super) fn choose(&self) -> Backend {
        let Some(mut at) = random().checked_rem(self.total) else {
            return Backend::Unresolved("it has no backend with a weight");
        };
        for (weight, backend) in &self.weighted {
            if at < *weight {
                return backend.clone();
            }
            at -= weight;
        }
        Backend::Unresolved("it has no backend with a weight")
    }

    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.weighted.iter().filter_map(|(_, backend)| match backend {
            Backend::Pool(pool) => Some(pool),
            _ => None,
        })
    }
}

/// Gives the schedulers of pools that name no endpoint picker; the same one for the same pool.
pub(crate) trait Schedulers {
    /// From now on it picks among `members`.
    fn scheduler(
        &mut self,
        pool: &ObjectKey,
        members: Vec<PoolEndpoint>,
    ) -> Result<Arc<Scheduler>, forebay_epp::Error>;
}

/// Resolves backend references; each pool is built once.
pub(super) struct Resolver<'a, S> {
    snapshot: &'a Snapshot,
    schedulers: &'a mut S,
    pools: HashMap<ObjectKey, Arc<Pool>>,
}

impl<'a, S: Schedulers> Resolver<'a, S> {
    pub(super) fn new(snapshot: &'a Snapshot, schedulers: &'a mut S) -> Self {
        Self { snapshot, schedulers, pools: HashMap::new() }
    }

    pub(super) fn into_pools(self) -> Vec<Arc<Pool>> {
        self.pools.into_values().collect()
    }

    /// `problem` is called with what a log should say.
    pub(super) fn backends(
        &mut self,
        namespace: &str,
        rule: &HttpRouteRules,
        mut problem: impl FnMut(String),
    ) -> Backends {
        let weighted: Vec<(u64, Backend)> = rule
            .backend_refs
            .iter()
            .flatten()
            .map(|reference| {
                let weight = reference.weight.map_or(1, |weight| u64::try_from(weight).unwrap_or(0));
                let backend = self.resolve(namespace, reference);
                if let Backend::Unresolved(why) | Backend::Unsupported(why) = backend {
                    problem(format!("backendRef {}: {why}", reference.name));
                }
                (weight, backend)
            })
            .collect();
        let total = weighted.iter().map(|(weight, _)| weight).sum();
        Backends { weighted, total }
    }

    fn resolve(&mut self, route_namespace: &str, reference: &HttpRouteRulesBackendRefs) -> Backend {
        let group = reference.group.as_deref().unwrap_or_default();
        match (group, reference.kind.as_deref().unwrap_or("Service")) {
            (POOL_GROUP, POOL_KIND) => {}
            ("", "Service") => return Backend::Unsupported("Services are not served, only InferencePools"),
            _ => return Backend::Unresolved("its kind is unknown"),
        }
        let namespace = reference.namespace.as_deref().unwrap_or(route_namespace);
        let key = ObjectKey::new(namespace, &reference.name);
        if namespace != route_namespace && !self.is_granted(route_namespace, &key) {
            return Backend::Unresolved("no ReferenceGrant allows the route to refer to this InferencePool");
        }
        if let Some(pool) = self.pools.get(&key) {
            return Backend::Pool(pool.clone());
        }
        let Some(object) = self.snapshot.inference_pools.get(&key) else {
            return Backend::Unresolved("the InferencePool does not exist");
        };
        if object.spec.app_protocol != AppProtocol::Http {
            return Backend::Unsupported("InferencePools with an appProtocol other than http are not served");
        }
        let members = self.snapshot.pool_endpoints(&key);
        let mut endpoints: Vec<SocketAddr> = members.iter().map(|endpoint| endpoint.address).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let picker = match &object.spec.endpoint_picker_ref {
            None => match self.schedulers.scheduler(&key, members) {
                Ok(scheduler) => PoolPicker::InProcess(scheduler),
                Err(error) => {
                    tracing::error!(pool = %key, %error, "no endpoint of this pool can be picked");
                    return Backend::Unresolved("its endpoints cannot be picked in this process");
                }
            },
            Some(picker) => {
                let (true, "Service", Some(port)) =
                    (picker.group.is_empty(), picker.kind.as_str(), picker.port)
                else {
                    return Backend::Unresolved("its endpointPickerRef is not a Service with a port");
                };
                let service = ObjectKey::new(namespace, &picker.name);
                let replicas = self.snapshot.service_endpoints(&service, port.number.get());
                PoolPicker::Service(PickerAddresses { replicas, failure_mode: picker.failure_mode })
            }
        };
        let pool = Arc::new(Pool { key: key.clone(), label: key.to_string().into(), endpoints, picker });
        self.pools.insert(key, pool.clone());
        Backend::Pool(pool)
    }

    /// Whether a ReferenceGrant in the pool's namespace lets HTTPRoutes of the other refer to it.
    fn is_granted(&self, from_namespace: &str, pool: &ObjectKey) -> bool {
        self.snapshot.reference_grants.iter().any(|(key, grant)| {
            key.namespace == pool.namespace
                && grant.spec.from.iter().any(|from| {
                    from.group == ROUTE_GROUP && from.kind == ROUTE_KIND && from.namespace == from_namespace
                })
                && grant.spec.to.iter().any(|to| {
                    to.group == POOL_GROUP
                        && to.kind == POOL_KIND
                        && to.name.as_ref().is_none_or(|name| name.is_empty() || *name == pool.name)
                })
        })
    }
}

/// Numbers to spread requests with (SplitMix64); nothing secret depends on them.
fn random() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut it = STATE.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ (it >> 31)
}
