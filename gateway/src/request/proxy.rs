use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use forebay_epp::schedule::Scheduler;
use forebay_routing::RouteTable;

use crate::forward::{Forwarder, Mirrors};
use crate::hold::HoldBudget;
use crate::models::ModelLists;
use crate::observe::{AccessLog, Metrics, Traces};
use crate::pick::Picker;

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
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) traces: Option<Arc<Traces>>,
    pub(crate) client_body_timeout: Duration,
    pub(crate) stream_idle_timeout: Duration,
    /// Label of models and pools that no resource names.
    pub(crate) unknown_label: Arc<str>,
    /// Responses ask HTTP/1 clients to close their connections.
    pub(crate) draining: Arc<AtomicBool>,
}

/// The routing table with the schedulers of its pools: one immutable snapshot.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) table: RouteTable,
    /// Schedulers of pools without an endpoint picker, by [`forebay_routing::Pool::index`].
    pub(crate) schedulers: Vec<Option<Arc<Scheduler>>>,
}
