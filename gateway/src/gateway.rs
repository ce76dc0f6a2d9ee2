use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_resources::{Provider, Snapshot, Store};
use opentelemetry_otlp::ExporterBuildError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::Listeners;
use crate::answer::ModelLists;
use crate::config::Config;
use crate::forward::{Forwarder, H2Connections, Mirrors, Pool};
use crate::hold::HoldBudget;
use crate::interest::interest;
use crate::observe::{AccessLog, Health, Metrics, Record, Traces, serve_admin};
use crate::pick::{Closing, InProcessPickers, Picker, PickerTlsError, Transport};
use crate::request::{Proxy, Routes};
use crate::status::{Applied, Writer, open_ports};
use crate::workers::Workers;
use forebay_routing::{Certificates, ListenerPort, PortSharing, Settled, SnapshotSettler, compile};
use forebay_service::tls;

/// Between attempts to open a listener whose port was taken.
const BIND_AGAIN: Duration = Duration::from_secs(2);

/// Why a gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Resources(#[from] forebay_resources::Error),
    #[error(transparent)]
    PickerTls(#[from] PickerTlsError),
    #[error("cannot reach the agents with TLS: {0}")]
    AgentTls(#[from] tls::Error),
    #[error("--admin-listen {address} cannot be opened: {source}; choose another address or end what has it")]
    Admin { address: SocketAddr, source: io::Error },
    #[error("--otlp-endpoint cannot be used: {0}")]
    Traces(#[from] ExporterBuildError),
    #[error("no thread to serve clients can be started: {0}")]
    Workers(io::Error),
}

/// A running gateway. It ends with [`Gateway::shutdown`]; dropped, it stops accepting and drains behind the caller's back.
#[derive(Debug)]
pub struct Gateway {
    admin_address: SocketAddr,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
    health: Arc<Health>,
    /// Told to all who answer.
    draining: Arc<AtomicBool>,
    drain_delay: Duration,
    traces: Option<Arc<Traces>>,
    _resources: Provider,
}

/// What the controlling task has brought about.
#[derive(Clone, Debug, Default)]
struct State {
    generation: u64,
    addresses: Arc<BTreeMap<ListenerPort, SocketAddr>>,
}

impl Gateway {
    /// Returns when the resources have been loaded and the listeners that can be opened are open. A cluster
    /// may let that wait; meanwhile there are metrics and health. Dropping the future ends all of it.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let store = Store::new();
        let interest = interest(&config.gateway_class);
        let resources = forebay_resources::start(&config.source(), interest, store.clone()).await?;
        let admin = |source| StartError::Admin { address: config.admin_listen, source };
        let admin_listener = TcpListener::bind(config.admin_listen).await.map_err(admin)?;
        let admin_address = admin_listener.local_addr().map_err(admin)?;

        let picker_options = config.picker_options()?;
        let transport = Transport::new(&config.picker_tls)?;
        let traces = match &config.otlp_endpoint {
            None => None,
            Some(endpoint) => Some(Arc::new(Traces::new(endpoint, config.trace_ratio)?)),
        };

        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Health::default());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let count = config.workers.map_or_else(available_cores, NonZeroUsize::get);
        let workers = Arc::new(Workers::start(count, &tasks, &stop).map_err(StartError::Workers)?);
        let pool = Arc::new(Pool::new(config.upstream_idle_timeout, count));
        let h2 = H2Connections::new(config.upstream_idle_timeout, tasks.clone(), stop.clone());
        let h2 = Arc::new(h2);
        let forwarder = Arc::new(Forwarder {
            pool: pool.clone(),
            h2: h2.clone(),
            metrics: metrics.clone(),
            connect_timeout: config.connect_timeout,
            first_byte_timeout: config.first_byte_timeout,
        });
        let access_log = config.access_log.then(|| {
            let left_out = metrics.log_lines_left_out.clone();
            let (log, writing) = AccessLog::new(left_out, tokio::io::stdout());
            tasks.spawn(writing);
            log
        });
        let draining = Arc::new(AtomicBool::new(false));
        let proxy = Arc::new(Proxy {
            access_log,
            traces: traces.clone(),
            routes: Default::default(),
            budget: HoldBudget::new(
                config.hold_request_bytes,
                config.hold_total_bytes,
                config.replay_bytes,
                metrics.hold_bytes.clone(),
            ),
            picker: Picker::new(metrics.clone(), transport, count, config.picker_limits()),
            mirrors: Mirrors::new(
                forwarder.clone(),
                metrics.clone(),
                config.first_byte_timeout,
                tasks.clone(),
                stop.child_token(),
            ),
            forwarder,
            models: ModelLists::new(pool.clone()),
            metrics: metrics.clone(),
            client_body_timeout: config.client_body_timeout,
            stream_idle_timeout: config.stream_idle_timeout,
            unknown_label: Record::unknown_label(),
            draining: draining.clone(),
        });
        let listeners = Listeners::new(
            proxy.clone(),
            config.bind_address,
            config.drain_timeout,
            tasks.clone(),
            workers,
            metrics.connections.clone(),
        );
        let closing = proxy.picker.closing().clone();
        // Weakly: the page is served until all else has ended.
        let served = Arc::downgrade(&proxy);
        let in_force = move || {
            served
                .upgrade()
                .map_or_else(String::new, |proxy| proxy.routes.load().table.describe().to_string())
        };
        let in_process = InProcessPickers::new(store.clone(), picker_options);
        let pickers = in_process.metrics();
        let (state, observed) = watch::channel(State::default());
        let (applied, observe_applied) = watch::channel(Applied::default());
        // Where nothing is said of the namespace this is no pod, and a port is a port of this machine.
        let services_in = config.pod_namespace.clone().filter(|_| matches!(resources, Provider::Cluster(_)));
        let controller = Controller {
            in_process,
            certificates: Certificates::default(),
            class: config.gateway_class.clone(),
            port_map: config.port_map(),
            store,
            settling: SnapshotSettler::default(),
            proxy,
            listeners,
            health: health.clone(),
            state,
            problems: BTreeSet::new(),
            services_in: services_in.clone(),
            applied,
        };
        if let (Provider::Cluster(provider), Some(namespace)) = (&resources, services_in) {
            let options = config.writer_options(namespace);
            Writer::start(provider, options, observe_applied, &tasks, &stop);
        }
        tasks.spawn(controller.run(stop.clone()));
        tasks.spawn(sweep(pool, h2, closing, stop.clone()));
        tasks.spawn(serve_admin(admin_listener, metrics, pickers, health.clone(), in_force, stop.clone()));
        let mut gateway = Self {
            admin_address,
            state: observed,
            stop,
            tasks,
            health,
            draining,
            drain_delay: config.drain_delay,
            traces,
            _resources: resources,
        };
        // The controller is there as long as `stop` is not called; it cannot end before its first turn.
        drop(gateway.state.wait_for(|state| state.generation > 0).await);
        Ok(gateway)
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The open addresses, by the port that the listener's resource names.
    pub fn addresses(&self) -> HashMap<u16, SocketAddr> {
        let state = self.state.borrow();
        state.addresses.iter().map(|(port, address)| (port.port, *address)).collect()
    }

    /// Waits until the routes of a later generation of the resources are in force.
    pub async fn changed(&mut self) {
        drop(self.state.changed().await);
    }

    /// Says that it is not ready, goes on accepting for the drain delay, lets running requests end within the
    /// drain timeout, then closes what is left.
    pub async fn shutdown(self) {
        self.health.drain();
        self.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.drain_delay).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(traces) = self.traces.clone() {
            // A panic in there is logged by its own thread; there is nothing left to be saved.
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

/// Keeps routes, pickers and listeners in step with the resources.
struct Controller {
    class: String,
    store: Arc<Store>,
    settling: SnapshotSettler,
    in_process: InProcessPickers,
    certificates: Certificates,
    proxy: Arc<Proxy>,
    listeners: Listeners<Proxy>,
    health: Arc<Health>,
    state: watch::Sender<State>,
    problems: BTreeSet<String>,
    port_map: HashMap<u16, u16>,
    /// The namespace with the Services that say which ports are opened.
    services_in: Option<String>,
    /// What statuses are to say.
    applied: watch::Sender<Applied>,
}

impl Controller {
    async fn run(mut self, stop: CancellationToken) {
        let mut generations = self.store.subscribe();
        loop {
            generations.mark_unchanged();
            let snapshot = self.store.snapshot();
            if snapshot.generation == 0 {
                // Nothing is known yet: that is not the same as that there is nothing.
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.store.loaded() => continue,
                }
            }
            let Settled { snapshot, recheck_at: until } = self.settling.settle(snapshot, Instant::now());
            let all_open = self.apply(snapshot).await;
            let bind_again = (!all_open).then(|| Instant::now() + BIND_AGAIN);
            let again = async {
                match until.into_iter().chain(bind_again).min() {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = generations.changed() => if changed.is_err() { break },
                () = again => {}
            }
        }
        self.health.set_ready(false);
    }

    /// False if a listener could not be opened.
    async fn apply(&mut self, snapshot: Arc<Snapshot>) -> bool {
        let sharing = match self.services_in {
            Some(_) => PortSharing::PerGateway,
            None => PortSharing::Shared,
        };
        let (table, report) = compile(&snapshot, &self.class, sharing, &mut self.certificates);
        for problem in table.problems.difference(&self.problems) {
            tracing::warn!("{problem}");
        }
        self.problems.clone_from(&table.problems);
        let ports = self.ports(&snapshot, table.ports.keys());
        self.proxy.picker.set_addresses(&table.picker_addresses());
        self.proxy.models.retain(&table.pools);
        let schedulers = self.in_process.follow(&table.pools);
        // Routes first: a new listener's first request finds them.
        self.proxy.routes.store(Arc::new(Routes { table, schedulers }));
        let failed = self.listeners.set(&ports).await;
        for (address, error) in &failed {
            tracing::warn!(%address, %error, "a listener cannot be opened; it is tried again");
        }
        self.health.set_ready(failed.is_empty());
        let addresses = Arc::new(self.listeners.addresses());
        let generation = snapshot.generation;
        self.applied.send_replace(Applied {
            snapshot,
            report: Arc::new(report),
            addresses: Arc::clone(&addresses),
        });
        self.state.send_replace(State { generation, addresses });
        failed.is_empty()
    }

    /// What is to be opened for each port. One that no Service names yet waits for that.
    fn ports<'a>(
        &self,
        snapshot: &Snapshot,
        wanted: impl Iterator<Item = &'a ListenerPort>,
    ) -> BTreeMap<ListenerPort, u16> {
        match &self.services_in {
            Some(namespace) => {
                let named = open_ports(snapshot, namespace);
                wanted.filter_map(|port| Some((port.clone(), *named.get(port)?))).collect()
            }
            None => wanted
                .map(|port| (port.clone(), self.port_map.get(&port.port).copied().unwrap_or(port.port)))
                .collect(),
        }
    }
}

/// What the machine, or the container's CPU limit, gives.
fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Closes connections to model servers before these do.
async fn sweep(pool: Arc<Pool>, h2: Arc<H2Connections>, closing: Closing, stop: CancellationToken) {
    let mut turns = tokio::time::interval(pool.sweep_interval());
    while stop.run_until_cancelled(turns.tick()).await.is_some() {
        pool.sweep();
        h2.sweep();
        closing.sweep();
    }
    h2.sweep();
}
