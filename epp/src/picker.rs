//! A pool's scheduler with everything that keeps it current; no gRPC server.

use std::{sync::Arc, time::Duration};

use forebay_resources::{ObjectKey, Store};
use forebay_service::tls::Identity;
use forebay_telemetry::client::WatchOptions;
use tokio::task::JoinSet;

use crate::{
    Error,
    endpoints::{AgentOptions, Endpoints, follow_agents, follow_members, parse_selector},
    observe::Metrics,
    schedule::{MAX_ENDPOINTS_PER_PICK, Pick, PickRequest, Scheduler},
};

pub const DEFAULT_AGENT_SELECTOR: &str = "app.kubernetes.io/name=forebay-agent";
pub const DEFAULT_AGENT_PORT: u16 = 9550;
pub const DEFAULT_AGENT_HEARTBEAT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct PickerOptions {
    /// Labels of the agents' pods.
    pub agent_selector: String,
    /// Where the agents' pods are; in any namespace when absent.
    pub agent_namespace: Option<String>,
    pub agent_port: u16,
    /// Longest silence of a healthy agent. After three of them its data is stale.
    pub agent_heartbeat: Duration,
    /// Shown to the agents, which must be of its authority; plain text without.
    pub agent_tls: Option<Arc<Identity>>,
    /// Most endpoints that a pick names to those who take a list, 1 to 3.
    pub endpoints_per_pick: usize,
}

impl Default for PickerOptions {
    fn default() -> Self {
        Self {
            agent_selector: DEFAULT_AGENT_SELECTOR.into(),
            agent_namespace: None,
            agent_port: DEFAULT_AGENT_PORT,
            agent_heartbeat: DEFAULT_AGENT_HEARTBEAT,
            agent_tls: None,
            endpoints_per_pick: MAX_ENDPOINTS_PER_PICK,
        }
    }
}

impl PickerOptions {
    /// Whether a picker can be started with these.
    pub fn check(&self) -> Result<(), Error> {
        parse_selector(&self.agent_selector).map(|_| ())
    }
}

/// Picks endpoints of one pool, and follows its members and their load until
/// it is dropped.
#[derive(Debug)]
pub struct Picker {
    scheduler: Arc<Scheduler>,
    tasks: JoinSet<()>,
}

impl Picker {
    /// Must be called in a tokio runtime.
    pub fn start(
        store: Arc<Store>,
        pool: ObjectKey,
        metrics: Arc<Metrics>,
        options: PickerOptions,
    ) -> Result<Self, Error> {
        let mut picker = Self::start_without_members(store.clone(), pool.clone(), metrics, options)?;
        picker.tasks.spawn(follow_members(store, pool, picker.scheduler.endpoints().clone()));
        Ok(picker)
    }

    /// Follows the load alone: for whoever knows the pool's members and sets them with
    /// [`Endpoints::set_members`]. Must be called in a tokio runtime.
    pub fn start_without_members(
        store: Arc<Store>,
        pool: ObjectKey,
        metrics: Arc<Metrics>,
        options: PickerOptions,
    ) -> Result<Self, Error> {
        let watch = WatchOptions {
            subscriber: format!("epp {pool}"),
            min_interval: Duration::ZERO,
            heartbeat: options.agent_heartbeat,
            tls: options.agent_tls,
        };
        let endpoints = Arc::new(Endpoints::new(watch.stale_after()));
        let agents = AgentOptions {
            selector: parse_selector(&options.agent_selector)?,
            namespace: options.agent_namespace,
            port: options.agent_port,
            watch,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_agents(store, agents, endpoints.clone()));
        metrics.watch(endpoints.clone());
        let scheduler = Arc::new(Scheduler::new(pool, endpoints, metrics, options.endpoints_per_pick));
        Ok(Self { scheduler, tasks })
    }

    pub fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    /// See [`Scheduler::pick`].
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<Pick, Error> {
        self.scheduler.pick(request)
    }
}
