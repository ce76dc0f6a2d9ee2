//! The scheduler of one pool with the tasks that update it. No server.

use std::{sync::Arc, time::Duration};

use forebay_resources::{ObjectKey, Store};
use forebay_service::tls::Identity;
use forebay_telemetry::client::WatchOptions;
use tokio::task::JoinSet;

use crate::{
    Error,
    endpoints::{AgentOptions, Endpoints, follow_agents, follow_members, parse_selector},
    metrics::Metrics,
    schedule::{MAX_ENDPOINTS_PER_PICK, Pick, PickRequest, Pipeline, Scheduler},
};

/// Default labels of the agents' pods.
pub const DEFAULT_AGENT_SELECTOR: &str = "app.kubernetes.io/name=forebay-agent";
/// Default port of the agents' telemetry service.
pub const DEFAULT_AGENT_PORT: u16 = 9550;
/// Default heartbeat of the agents.
pub const DEFAULT_AGENT_HEARTBEAT: Duration = Duration::from_secs(1);

/// Options of a [`Picker`].
#[derive(Clone, Debug)]
pub struct PickerOptions {
    /// Labels of the agents' pods.
    pub agent_selector: String,
    /// Namespace of the agents' pods. `None`: all namespaces.
    pub agent_namespace: Option<String>,
    /// Port of the agents' telemetry service.
    pub agent_port: u16,
    /// Maximum time between two frames of a healthy agent. Its data is stale after three times this.
    pub agent_heartbeat: Duration,
    /// Client certificate for the agents, and the CA of their certificates. `None`: plain text.
    pub agent_tls: Option<Arc<Identity>>,
    /// Maximum endpoints of a decision for gateways that accept a list, 1 to 3.
    pub endpoints_per_pick: usize,
    /// What decides the picks.
    pub pipeline: Arc<Pipeline>,
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
            pipeline: Arc::default(),
        }
    }
}

impl PickerOptions {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// The agent selector is invalid.
    pub fn check(&self) -> Result<(), Error> {
        parse_selector(&self.agent_selector).map(|_| ())
    }
}

/// Picks endpoints of one pool. Follows the members of the pool and their load until it is dropped.
#[derive(Debug)]
pub struct Picker {
    scheduler: Arc<Scheduler>,
    tasks: JoinSet<()>,
}

impl Picker {
    /// Starts following the members and the agents in `store`. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// The agent selector is invalid.
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

    /// Like [`Picker::start`], without following the members. The caller sets them with [`Endpoints::set_members`].
    ///
    /// # Errors
    ///
    /// The agent selector is invalid.
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
        let scheduler =
            Arc::new(Scheduler::new(pool, endpoints, options.pipeline, metrics, options.endpoints_per_pick));
        Ok(Self { scheduler, tasks })
    }

    /// The scheduler. It works without updates after the picker is dropped.
    pub fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    /// See [`Scheduler::pick`].
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<Pick, Error> {
        self.scheduler.pick(request)
    }
}
