//! The routing table: immutable, read by every request without a lock.

mod access;
mod backend;
mod describe;
mod entry;
mod filters;
mod hostname;
mod index;
mod listener;
mod matching;
mod models;
mod port;
mod port_tls;
mod quota;
mod retry;
mod rewrites;
mod rule;
mod server_tls;
mod timeouts;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub use self::access::{
    Access, ApiKey, ApiKeys, Authentication, AuthenticationMode, Checks, ClientCertificate, Credential,
    CredentialLocation, DescriptorValues, GlobalLimit, Identity, JwksId, Jwt, JwtAuthentication, JwtKeys,
    LimitSet, LimitUnit, Measure, ModelNames, Phase, PolicyLimits, RateLimit, RateLimitServer, RemoteJwks,
    RemoteKeys, RequestAttributes, TokenError, Variables,
};
pub(crate) use self::access::{
    AccessRule, Action, Descriptor, Document, Expression, JwksSource, JwtProvider, KeyHash,
};
pub use self::backend::{
    Backend, FailureMode, ModelsCredential, PickerAddresses, Pool, PoolPicker, ServiceBackend,
};
pub(crate) use self::entry::Entry;
pub use self::entry::{BeforeBody, Matched};
pub use self::filters::{Cors, Filters, HeaderChange, Mirror, Preflight, Redirect, UrlRewrite};
pub(crate) use self::hostname::Hostname;
pub(crate) use self::listener::ListenerAccess;
pub use self::listener::{ListenerRoutes, PortRoutes};
pub(crate) use self::matching::Match;
pub use self::models::ModelMap;
pub use self::port::{ListenerPort, PortSharing};
pub(crate) use self::port_tls::ClientVerifier;
pub use self::port_tls::PortTls;
pub use self::quota::{
    AppliedQuota, Money, Price, Prices, Quota, QuotaLimit, QuotaMeasure, QuotaModels, QuotaSet, Quotas,
    TokenUse,
};
pub(crate) use self::quota::{Callers, KeySelector, Requirement};
pub use self::retry::RetryPolicy;
pub use self::rewrites::{Rewrites, Targets};
pub use self::rule::{Backends, Rule, Weighted};
pub use self::server_tls::{Authorities, ServerTls, SubjectName};
pub use self::timeouts::Timeouts;
pub(crate) use self::timeouts::parse_duration;

/// All routes of one snapshot.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Listeners by port.
    pub ports: BTreeMap<ListenerPort, Arc<PortRoutes>>,
    /// The InferencePools that rules refer to; [`Pool::index`] is the position.
    pub pools: Vec<Arc<Pool>>,
    /// The policies with rate limits; [`PolicyLimits::index`] is the position.
    pub limits: Vec<Arc<PolicyLimits>>,
    /// The quotas; [`Quota::index`] is the position.
    pub quotas: Vec<Arc<Quota>>,
    /// What is invalid or not supported in the resources, one line each.
    pub problems: BTreeSet<String>,
}

impl RouteTable {
    /// The key sets that policies of listeners and rules load from servers.
    pub fn remote_key_sets(&self) -> BTreeMap<JwksId, Arc<RemoteJwks>> {
        let listeners = self.ports.values().flat_map(|port| &port.listeners);
        let authentications = listeners.flat_map(ListenerRoutes::token_authentications);
        let remote = authentications.flat_map(|authentication| authentication.remote());
        remote.map(|jwks| (jwks.id.clone(), jwks.clone())).collect()
    }

    /// The servers of rate limits that policies name, each with its endpoints and how its certificate is verified.
    pub fn rate_limit_servers(&self) -> BTreeMap<&RateLimitServer, (&[SocketAddr], Option<&ServerTls>)> {
        let sets = self.limits.iter().flat_map(|limits| &limits.sets);
        let global = sets.filter_map(|set| set.global.as_ref());
        global.map(|global| (&global.server, (&global.endpoints[..], global.tls.as_ref()))).collect()
    }

    /// Addresses of the endpoint pickers of all pools, each with the pool's namespace.
    pub fn picker_addresses(&self) -> HashSet<(SocketAddr, Arc<str>)> {
        let services = self.pools.iter().filter_map(|pool| match &pool.picker {
            PoolPicker::Service(picker) => Some(picker),
            PoolPicker::InProcess(_) => None,
        });
        services
            .flat_map(|picker| picker.replicas.iter().map(|address| (*address, picker.namespace.clone())))
            .collect()
    }
}
