use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use forebay_epp::schedule::Scheduler;
use forebay_resources::ObjectKey;
use forebay_routing::RouteTable;

use crate::forward::{Forwarder, Mirrors};
use crate::hold::HoldBudget;
use crate::jwks::KeySets;
use crate::limit::{LimitReports, LimitServers, PolicyState, QuotaFile, QuotaState, QuotaStore};
use crate::models::ModelLists;
use crate::observe::{Logs, Metrics, Traces};
use crate::pick::Picker;

/// When the gateway asks for the usage of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StreamUsage {
    /// If something counts tokens of the request.
    Auto,
    /// For each stream.
    Always,
    /// For no stream. Tokens are then counted by events.
    Never,
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The routing table in use. The controller replaces it.
    pub(crate) routes: ArcSwap<Routes>,
    pub(crate) budget: Arc<HoldBudget>,
    /// Maximum requests in flight.
    pub(crate) max_requests: usize,
    pub(crate) picker: Picker,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) mirrors: Mirrors,
    pub(crate) models: ModelLists,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logs: Logs,
    pub(crate) traces: Option<Arc<Traces>>,
    /// Tells servers of rate limits what requests have used.
    pub(crate) limit_reports: LimitReports,
    /// Where gateways share what was used of quotas.
    pub(crate) quota_store: Option<QuotaStore>,
    /// It is written until the last request has ended.
    pub(crate) quota_file: Option<QuotaFile>,
    pub(crate) stream_usage: StreamUsage,
    pub(crate) client_body_timeout: Duration,
    pub(crate) stream_idle_timeout: Duration,
    /// Label of models and pools that no resource names.
    pub(crate) unknown_label: Arc<str>,
    /// Responses ask HTTP/1 clients to close their connections.
    pub(crate) draining: Arc<AtomicBool>,
}

impl Proxy {
    /// Whether the newest routing table has the endpoint as a ready member of the pool.
    pub(crate) fn has_ready(&self, pool: &ObjectKey, endpoint: &SocketAddr) -> bool {
        let routes = self.routes.load();
        routes.table.pools.iter().any(|it| it.key == *pool && it.has_ready(endpoint))
    }
}

/// The routing table with the schedulers of its pools: one immutable snapshot.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) table: RouteTable,
    /// Schedulers of pools without an endpoint picker, by [`forebay_routing::Pool::index`].
    pub(crate) schedulers: Vec<Option<Arc<Scheduler>>>,
    /// Rate limits, by [`forebay_routing::PolicyLimits::index`].
    pub(crate) limits: Vec<Arc<PolicyState>>,
    /// Quotas, by [`forebay_routing::Quota::index`].
    pub(crate) quotas: Vec<Arc<QuotaState>>,
    /// Servers of global rate limits.
    pub(crate) limit_servers: LimitServers,
    /// Keys of tokens that are loaded from servers.
    pub(crate) key_sets: KeySets,
}
