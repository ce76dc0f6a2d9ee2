//! Backends of rules: InferencePools and Services.

use std::net::SocketAddr;
use std::sync::Arc;

pub use forebay_resources::FailureMode;
use forebay_resources::{AppProtocol, ObjectKey, PoolEndpoint};
use http::HeaderValue;

use super::rewrites::Rewrites;

/// An InferencePool as one table has it.
#[derive(Debug)]
pub struct Pool {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Position in [`RouteTable::pools`](super::RouteTable::pools).
    pub index: usize,
    /// `namespace/name`, for labels and logs.
    pub label: Arc<str>,
    /// Ready endpoints, sorted.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// What the endpoints speak.
    pub protocol: AppProtocol,
    /// What chooses the endpoint.
    pub picker: PoolPicker,
    /// `None` without InferenceModelRewrites for this pool.
    pub rewrites: Option<Rewrites>,
    /// For the gateway's own question for models.
    pub models_credential: ModelsCredential,
}

/// What the gateway sends when it asks pods for their models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelsCredential {
    /// The pool names no Secret.
    None,
    /// The Secret with this name does not exist, may not be read, or has no entry `api-key`.
    Missing(String),
    /// The value of `Authorization`.
    Bearer(HeaderValue),
}

/// What chooses among a pool's endpoints.
#[derive(Debug)]
pub enum PoolPicker {
    /// The pool's `endpointPickerRef`.
    Service(PickerAddresses),
    /// The pool has no `endpointPickerRef`: the gateway picks in its own process, among these endpoints.
    InProcess(Vec<PoolEndpoint>),
}

/// Addresses of a pool's endpoint picker.
#[derive(Debug)]
pub struct PickerAddresses {
    /// Namespace of the pool and of its picker. The picker's certificate must name it.
    pub namespace: Arc<str>,
    /// Ready endpoints of the picker's Service.
    pub replicas: Vec<SocketAddr>,
    /// What to do when no replica decides.
    pub failure_mode: FailureMode,
}

impl Pool {
    /// Ready endpoints, sorted.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Whether `endpoint` is a ready member.
    pub fn has_ready(&self, endpoint: &SocketAddr) -> bool {
        self.endpoints.binary_search(endpoint).is_ok()
    }

    /// Up to `limit` ready endpoints, starting at a random one.
    pub fn random_endpoints(&self, limit: usize) -> Vec<SocketAddr> {
        random_endpoints(&self.endpoints, limit)
    }
}

/// A Service port as one table has it.
#[derive(Debug)]
pub struct ServiceBackend {
    /// `namespace/name`, for labels and logs.
    pub label: Arc<str>,
    /// Ready endpoints, sorted.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// From the port's `appProtocol`.
    pub protocol: AppProtocol,
}

impl ServiceBackend {
    /// Up to `limit` ready endpoints, starting at a random one.
    pub fn random_endpoints(&self, limit: usize) -> Vec<SocketAddr> {
        random_endpoints(&self.endpoints, limit)
    }
}

/// Target of a backendRef.
#[derive(Clone, Debug)]
pub enum Backend {
    /// An InferencePool.
    Pool(Arc<Pool>),
    /// A Service port.
    Service(Arc<ServiceBackend>),
    /// The reference does not resolve or is not permitted, and why. Requests get 500
    /// (Gateway API, HTTPRouteRule.backendRefs).
    Invalid(&'static str),
}

impl Backend {
    /// `namespace/name`; `None` for an invalid reference.
    pub fn label(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(pool) => Some(&pool.label),
            Self::Service(service) => Some(&service.label),
            Self::Invalid(_) => None,
        }
    }
}

fn random_endpoints(endpoints: &[SocketAddr], limit: usize) -> Vec<SocketAddr> {
    let count = endpoints.len();
    let first = fastrand::usize(..count.max(1));
    endpoints.iter().cycle().skip(first).take(limit.min(count)).copied().collect()
}
