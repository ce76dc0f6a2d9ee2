//! The scheduler of one pool with its part of the telemetry.

use std::{sync::Arc, time::Duration};

use forebay_resources::{ObjectKey, PoolEndpoint, Store};
use forebay_service::tls::Identity;
use forebay_telemetry::client::{STALE_HEARTBEATS, WatchOptions};

use crate::{
    Error,
    agents::{AgentOptions, AgentView, Agents, Reader, parse_selector},
    endpoints::Endpoints,
    metrics::Metrics,
    schedule::{MAX_ENDPOINTS_PER_PICK, Pick, PickRequest, Pipelines, Scheduler},
};

/// Default labels of the agents' pods.
pub const DEFAULT_AGENT_SELECTOR: &str = "app.kubernetes.io/name=forebay-agent";
/// Default port of the agents' telemetry service.
pub const DEFAULT_AGENT_PORT: u16 = 9550;
/// Default heartbeat of the agents.
pub const DEFAULT_AGENT_HEARTBEAT: Duration = Duration::from_secs(1);

/// Options of the pickers of a process.
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
    pub pipelines: Pipelines,
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
            pipelines: Pipelines::default(),
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

    /// Starts the streams to the agents in `store`, for all pickers of the process. `subscriber`: name of the process in the
    /// agents' logs. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// The agent selector is invalid.
    pub fn follow_agents(&self, store: Arc<Store>, subscriber: String) -> Result<Arc<Agents>, Error> {
        let watch = WatchOptions {
            subscriber,
            min_interval: Duration::ZERO,
            heartbeat: self.agent_heartbeat,
            latencies: false,
            tls: self.agent_tls.clone(),
        };
        let options = AgentOptions {
            selector: parse_selector(&self.agent_selector)?,
            namespace: self.agent_namespace.clone(),
            port: self.agent_port,
            watch,
        };
        Ok(Agents::start(store, options))
    }
}

/// Picks endpoints of one pool. Its load is followed until this is dropped.
#[derive(Debug)]
pub struct Picker {
    scheduler: Arc<Scheduler>,
    reader: Reader,
}

impl Picker {
    /// A picker without members.
    pub fn new(
        agents: &Arc<Agents>,
        pool: ObjectKey,
        metrics: Arc<Metrics>,
        options: &PickerOptions,
    ) -> Self {
        let endpoints = Arc::new(Endpoints::new(options.agent_heartbeat * STALE_HEARTBEATS));
        let reader = agents.reader(endpoints.clone());
        metrics.watch(pool.clone(), endpoints.clone());
        let pipeline = options.pipelines.for_pool();
        let scheduler = Scheduler::new(pool, endpoints, pipeline, metrics, options.endpoints_per_pick);
        Self { scheduler: Arc::new(scheduler), reader }
    }

    /// Replaces the members of the pool. `None` if the pool does not exist. Endpoints of the same pod keep their load and
    /// their picks. What the agents know of new ones is applied at once.
    pub fn set_members(&mut self, members: Option<Vec<PoolEndpoint>>) {
        self.reader.set_members(members);
    }

    /// The scheduler. It works without updates after the picker is dropped.
    pub fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    /// The agents that report members of the pool.
    pub fn agents(&self) -> Vec<AgentView> {
        self.reader.views()
    }

    /// See [`Scheduler::pick`].
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<Pick, Error> {
        self.scheduler.pick(request)
    }
}
