//! Starts and stops the gateway.

mod controller;
mod replicas;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_resources::{Provider, Store};
use forebay_routing::{Certificates, SnapshotSettler};
use forebay_usage::{Database, UsageLog};
use opentelemetry_otlp::ExporterBuildError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::controller::{Controller, Limits, State};
use self::replicas::Replicas;
use crate::accept::{ClientLimits, Listeners};
use crate::config::{Config, PickerOptionsError};
use crate::forward::{ConnectionPool, Forwarder, H2Connections, Mirrors};
use crate::hold::HoldBudget;
use crate::interest::interest;
use crate::jwks::KeySetRegistry;
use crate::limit::{LimitReports, QuotaFile, QuotaRegistry, QuotaStore, open_file, open_store};
use crate::models::ModelLists;
use crate::observe::{AccessLog, Health, LogLimit, Logs, Metrics, Traces, UNKNOWN, serve_admin};
use crate::pick::{HalfClosedStreams, InProcessPickers, Picker, PickerTlsError, Transport};
use crate::request::Proxy;
use crate::runtime::{Workers, raise_open_files_limit};
use crate::status::{Applied, Writer};

/// Why a gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The resources cannot be read.
    #[error(transparent)]
    Resources(#[from] forebay_resources::Error),
    /// The `--epp-tls` flags are invalid.
    #[error(transparent)]
    PickerTls(#[from] PickerTlsError),
    /// The pickers in process cannot be set up.
    #[error(transparent)]
    PickerOptions(#[from] PickerOptionsError),
    /// The admin address cannot be opened.
    #[error(
        "--admin-listen {address} cannot be opened: {source}; choose another address or stop the program that uses it"
    )]
    Admin {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The exporter of traces cannot be set up.
    #[error("--otlp-endpoint cannot be used: {0}")]
    Traces(#[from] ExporterBuildError),
    /// The URL of the usage database is invalid.
    #[error(transparent)]
    UsageDatabase(#[from] forebay_usage::Error),
    /// The URL of the quota store is invalid. The URL is not told: it may contain a password.
    #[error("--quota-store cannot be used: {0}")]
    QuotaStore(String),
    /// The file with the counters of quotas cannot be used.
    #[error("{0}")]
    QuotaFile(String),
    /// No worker thread can be started.
    #[error("cannot start a worker thread: {0}")]
    Workers(io::Error),
}

/// A running gateway. [`Gateway::shutdown`] stops it. Dropping it also stops it, and drains in the background.
#[derive(Debug)]
pub struct Gateway {
    admin_address: SocketAddr,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    stop_writing: CancellationToken,
    tasks: TaskTracker,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// Responses ask clients to close their connections.
    draining: Arc<AtomicBool>,
    drain_delay: Duration,
    drain_timeout: Duration,
    traces: Option<Arc<Traces>>,
    _resources: Provider,
}

/// What the parts of a gateway share while they are started.
struct Shared {
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the status writer, before the rest: another replica takes the Lease while this one drains.
    stop_writing: CancellationToken,
    workers: Arc<Workers>,
    worker_count: usize,
    connections: Arc<ConnectionPool>,
    h2: Arc<H2Connections>,
    budget: Arc<HoldBudget>,
    draining: Arc<AtomicBool>,
    open_files: usize,
}

impl Shared {
    fn start(config: &Config) -> Result<Self, StartError> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let open_files = raise_open_files_limit();
        let worker_count = config.workers.map_or_else(available_cores, NonZeroUsize::get);
        let workers = Workers::start(worker_count, &tasks, &stop).map_err(StartError::Workers)?;
        let metrics = Arc::new(Metrics::new());
        let budget = HoldBudget::new(
            config.hold_request_bytes,
            config.hold_total_bytes,
            config.replay_bytes,
            metrics.hold_bytes.clone(),
        );
        Ok(Self {
            metrics,
            budget,
            workers: Arc::new(workers),
            worker_count,
            connections: Arc::new(ConnectionPool::new(
                config.upstream_idle_timeout,
                worker_count,
                Config::max_upstream_connections(open_files),
            )),
            h2: Arc::new(H2Connections::new(config.upstream_idle_timeout, tasks.clone(), stop.clone())),
            draining: Arc::default(),
            stop_writing: stop.child_token(),
            open_files,
            tasks,
            stop,
        })
    }

    /// Starts the writers of the logs that are on. They end after the last request.
    fn logs(&self, config: &Config) -> Result<Logs, StartError> {
        let access = config.access_log.then(|| {
            let dropped = self.metrics.access_log_dropped_lines.clone();
            let (log, writing) = AccessLog::new(dropped, tokio::io::stdout());
            self.tasks.spawn(writing);
            log
        });
        let usage = config.usage_db.as_deref().map(|url| {
            let (database, retention) = (Database::new(url)?, config.usage_retention());
            let (log, writing) = UsageLog::new(database, retention, self.metrics.usage_log.clone());
            self.tasks.spawn(writing);
            Ok::<_, forebay_usage::Error>(log)
        });
        Ok(Logs { access, usage: usage.transpose()? })
    }

    /// Starts the sending of reports. It ends after the last request.
    fn limit_reports(&self) -> LimitReports {
        let (reports, sending) = LimitReports::new(self.metrics.limit_servers.clone());
        self.tasks.spawn(sending);
        reports
    }

    fn quota_store(&self, config: &Config) -> Result<Option<QuotaStore>, StartError> {
        let Some(options) = config.quota_store_options() else { return Ok(None) };
        let (store, serving) = open_store(&options, self.metrics.quota_store.clone())
            .map_err(|error| StartError::QuotaStore(error.to_string()))?;
        self.tasks.spawn(serving);
        Ok(Some(store))
    }

    /// Starts the writing of the file. It ends after the last request.
    fn quota_file(&self, config: &Config) -> Result<Option<QuotaFile>, StartError> {
        let Some(path) = &config.quota_file else { return Ok(None) };
        let (file, writing) = open_file(path).map_err(|error| StartError::QuotaFile(error.to_string()))?;
        self.tasks.spawn(writing);
        Ok(Some(file))
    }

    fn proxy(
        &self,
        config: &Config,
        transport: Transport,
        traces: Option<Arc<Traces>>,
    ) -> Result<Proxy, StartError> {
        let metrics = &self.metrics;
        let forwarder = Arc::new(Forwarder {
            connections: self.connections.clone(),
            h2: self.h2.clone(),
            metrics: metrics.clone(),
            log_limit: LogLimit::default(),
            connect_timeout: config.connect_timeout,
            first_byte_timeout: config.first_byte_timeout,
        });
        let mirrors = Mirrors::new(
            forwarder.clone(),
            metrics.clone(),
            config.first_byte_timeout,
            self.tasks.clone(),
            self.stop.child_token(),
        );
        Ok(Proxy {
            routes: Default::default(),
            budget: self.budget.clone(),
            max_requests: config.max_requests.get(),
            picker: Picker::new(metrics.clone(), transport, self.worker_count, config.picker_limits()),
            mirrors,
            forwarder,
            models: ModelLists::new(self.connections.clone()),
            metrics: metrics.clone(),
            logs: self.logs(config)?,
            traces,
            limit_reports: self.limit_reports(),
            quota_store: self.quota_store(config)?,
            quota_file: self.quota_file(config)?,
            client_body_timeout: config.client_body_timeout,
            stream_usage: config.stream_usage,
            stream_idle_timeout: config.stream_idle_timeout,
            unknown_label: Arc::from(UNKNOWN),
            draining: self.draining.clone(),
        })
    }

    fn key_sets(&self) -> KeySetRegistry {
        KeySetRegistry::new(self.metrics.clone(), self.tasks.clone(), self.stop.clone())
    }

    fn listeners(&self, config: &Config, proxy: &Arc<Proxy>) -> Listeners<Proxy> {
        let max_connections = config.max_connections(self.open_files);
        tracing::info!(max_connections, open_files = self.open_files, "limits of client connections");
        Listeners::new(
            proxy.clone(),
            config.bind_address,
            config.connection_options(),
            ClientLimits { max_connections, budget: self.budget.clone() },
            self.tasks.clone(),
            self.workers.clone(),
            self.metrics.connections.clone(),
        )
    }

    fn limits(&self, proxy: &Proxy, config: &Config) -> Limits {
        let (store, file) = (proxy.quota_store.clone(), proxy.quota_file.clone());
        let quotas = QuotaRegistry::new(store, file, config.drain_time());
        Limits::new(quotas, self.metrics.limit_servers.clone())
    }
}

async fn bind_admin(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Admin { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

impl Gateway {
    /// Starts a gateway. Returns once the resources are loaded and all listeners that can be opened are open. Loading
    /// may take as long as the cluster is unreachable; metrics and health are served meanwhile. Dropping the future
    /// stops everything.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let store = Store::new();
        let interest = interest(&config.gateway_class);
        let resources = forebay_resources::start(&config.source(), interest, store.clone()).await?;
        let (admin_listener, admin_address) = bind_admin(config.admin_listen).await?;
        let picker_options = config.picker_options()?;
        let (transport, traces) = (Transport::new(&config.picker_tls)?, traces(&config)?);
        let shared = Shared::start(&config)?;
        let proxy = Arc::new(shared.proxy(&config, transport, traces.clone())?);
        let health = Arc::new(Health::default());
        let in_process = InProcessPickers::new(store.clone(), picker_options, shared.metrics.pickers.clone());
        let (state, observed) = watch::channel(State::default());
        let (applied, observe_applied) = watch::channel(Applied::default());
        // Without a namespace the gateway is not a pod, and listener ports are ports of this machine.
        let services_in = config.pod_namespace.clone().filter(|_| matches!(resources, Provider::Cluster(_)));
        if let (Provider::Cluster(provider), Some(namespace)) = (&resources, services_in.clone()) {
            let options = config.writer_options(namespace);
            Writer::start(provider, options, observe_applied, &shared.tasks, &shared.stop_writing);
        }
        let (half_closed, config_page) = (proxy.picker.half_closed().clone(), config_page(&proxy));
        let controller = Controller {
            in_process,
            limits: shared.limits(&proxy, &config),
            key_sets: shared.key_sets(),
            certificates: Certificates::default(),
            class: config.gateway_class.clone(),
            port_map: config.port_map(),
            store,
            settling: SnapshotSettler::default(),
            listeners: shared.listeners(&config, &proxy),
            proxy,
            health: health.clone(),
            state,
            problems: BTreeSet::new(),
            replicas: services_in.clone().map(|namespace| Replicas::new(namespace, &config)),
            services_in,
            applied,
        };
        let Shared { metrics, tasks, stop, stop_writing, connections, h2, draining, .. } = shared;
        tasks.spawn(controller.run(stop.clone()));
        tasks.spawn(sweep(connections, h2, half_closed, stop.clone()));
        tasks.spawn(serve_admin(admin_listener, metrics.clone(), health.clone(), config_page, stop.clone()));
        let mut gateway = Self {
            admin_address,
            state: observed,
            stop,
            stop_writing,
            tasks,
            health,
            metrics,
            draining,
            drain_delay: config.drain_delay,
            drain_timeout: config.drain_timeout,
            traces,
            _resources: resources,
        };
        // The controller does not end before it has applied the first snapshot, because `stop` is not cancelled.
        drop(gateway.state.wait_for(|state| state.generation > 0).await);
        Ok(gateway)
    }

    /// The address of the admin endpoint.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The open addresses, by the port number of the listener in its Gateway.
    pub fn addresses(&self) -> HashMap<u16, SocketAddr> {
        let state = self.state.borrow();
        state.addresses.iter().map(|(port, address)| (port.port, *address)).collect()
    }

    /// Waits until a later generation of the resources is applied.
    pub async fn changed(&mut self) {
        drop(self.state.changed().await);
    }

    /// Becomes not ready, accepts connections for the drain delay, lets requests in flight finish within the drain
    /// timeout, and closes the remaining connections.
    pub async fn shutdown(self) {
        let requests = self.metrics.active_requests.get();
        let deadline = self.drain_delay.saturating_add(self.drain_timeout);
        tracing::info!("shutting down: draining {requests} requests, deadline {} s", deadline.as_secs_f64());
        self.health.drain();
        self.stop_writing.cancel();
        self.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.drain_delay).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(traces) = self.traces.clone() {
            // A panic is logged by its own thread.
            let _ = tokio::task::spawn_blocking(move || traces.shutdown()).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

fn traces(config: &Config) -> Result<Option<Arc<Traces>>, ExporterBuildError> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
    Ok(Some(Arc::new(Traces::new(endpoint, config.trace_ratio)?)))
}

/// Renders the routing table in use. Does not keep the proxy alive, because the admin endpoint is served until
/// everything else has ended.
fn config_page(proxy: &Arc<Proxy>) -> impl Fn() -> String + Clone + Send + Sync + 'static {
    let proxy = Arc::downgrade(proxy);
    move || proxy.upgrade().map_or_else(String::new, |proxy| proxy.routes.load().table.describe().to_string())
}

/// The number of cores, or the CPU limit of the container.
fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Closes idle upstream connections before the engines do, and expired streams to pickers.
async fn sweep(
    connections: Arc<ConnectionPool>,
    h2: Arc<H2Connections>,
    half_closed: HalfClosedStreams,
    stop: CancellationToken,
) {
    let mut interval = tokio::time::interval(connections.sweep_interval());
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        connections.sweep();
        h2.sweep();
        half_closed.sweep();
    }
    h2.sweep();
}
