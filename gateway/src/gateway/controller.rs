//! Applies snapshots of the resources to the data plane.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_resources::{Snapshot, Store};
use forebay_routing::{Certificates, ListenerPort, PortSharing, Settled, SnapshotSettler, compile};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::replicas::Replicas;
use crate::accept::Listeners;
use crate::jwks::KeySetRegistry;
use crate::limit::{LimitRegistry, LimitServerMetrics, LimitServerRegistry, QuotaRegistry, Share};
use crate::observe::Health;
use crate::pick::InProcessPickers;
use crate::request::{Proxy, Routes};
use crate::status::{Applied, open_ports};

/// Retry interval for listeners that could not be opened.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// The state that the controller has applied.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Generation of the snapshot. 0 before the first one.
    pub(super) generation: u64,
    pub(super) addresses: Arc<BTreeMap<ListenerPort, SocketAddr>>,
}

/// What requests have used of rate limits and quotas.
#[derive(Debug)]
pub(super) struct Limits {
    rates: LimitRegistry,
    servers: LimitServerRegistry,
    quotas: QuotaRegistry,
}

impl Limits {
    pub(super) fn new(quotas: QuotaRegistry, servers: LimitServerMetrics) -> Self {
        Self { rates: LimitRegistry::default(), servers: LimitServerRegistry::new(servers), quotas }
    }
}

/// Keeps routes, pickers and listeners in step with the resources.
pub(super) struct Controller {
    pub(super) class: String,
    pub(super) store: Arc<Store>,
    pub(super) settling: SnapshotSettler,
    pub(super) in_process: InProcessPickers,
    pub(super) limits: Limits,
    pub(super) key_sets: KeySetRegistry,
    pub(super) certificates: Certificates,
    pub(super) proxy: Arc<Proxy>,
    pub(super) listeners: Listeners<Proxy>,
    pub(super) health: Arc<Health>,
    pub(super) state: watch::Sender<State>,
    /// Problems that were logged already.
    pub(super) problems: BTreeSet<String>,
    pub(super) port_map: HashMap<u16, u16>,
    /// Namespace of the Services that assign container ports to listeners. `None` outside a cluster.
    pub(super) services_in: Option<String>,
    /// `None`: this is the only gateway.
    pub(super) replicas: Option<Replicas>,
    /// For the status writer.
    pub(super) applied: watch::Sender<Applied>,
}

impl Controller {
    /// Runs until `stop` is cancelled.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut generations = self.store.subscribe();
        loop {
            generations.mark_unchanged();
            let snapshot = self.store.snapshot();
            if snapshot.generation == 0 {
                // Nothing is loaded yet, which must not be mistaken for an empty cluster.
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.store.loaded() => continue,
                }
            }
            let Settled { snapshot, recheck_at } = self.settling.settle(snapshot, Instant::now());
            let span = tracing::debug_span!("reconcile", generation = snapshot.generation);
            let are_all_open = self.reconcile(snapshot).instrument(span).await;
            let bind_retry = (!are_all_open).then(|| Instant::now() + BIND_RETRY);
            let retry = async {
                match recheck_at.into_iter().chain(bind_retry).min() {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = generations.changed() => if changed.is_err() { break },
                () = retry => {}
            }
        }
        self.health.set_ready(false);
    }

    /// Applies a snapshot. False if a listener could not be opened.
    async fn reconcile(&mut self, snapshot: Arc<Snapshot>) -> bool {
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
        let schedulers = self.in_process.update(&table.pools);
        let limits = self.limits.rates.update(&table.limits);
        for quota in self.limits.quotas.forget(|quota| snapshot.quotas.contains_key(quota)) {
            self.proxy.metrics.quota_forgotten(&quota);
        }
        let share = self.replicas.as_ref().map_or(Share::WHOLE, |replicas| replicas.share(&snapshot));
        self.limits.quotas.divide(share);
        let quotas = self.limits.quotas.update(&table.quotas);
        let limit_servers = self.limits.servers.update(&table.rate_limit_servers());
        let key_sets = self.key_sets.update(&table.remote_key_sets());
        // Before the listeners are opened, so that the first request of a new listener finds its routes.
        self.proxy.routes.store(Arc::new(Routes {
            table,
            schedulers,
            limits,
            quotas,
            limit_servers,
            key_sets,
        }));
        let failed = self.listeners.set(&ports).await;
        for (address, error) in &failed {
            tracing::warn!(%address, %error, retry_in = ?BIND_RETRY, "cannot open a listener");
        }
        self.health.set_ready(failed.is_empty());
        let addresses = Arc::new(self.listeners.addresses());
        let generation = snapshot.generation;
        self.applied.send_replace(Applied {
            snapshot,
            report: Arc::new(report),
            counting: self.limits.quotas.counting(),
            addresses: Arc::clone(&addresses),
        });
        self.state.send_replace(State { generation, addresses });
        failed.is_empty()
    }

    /// The port number to open for each listener port. In a cluster, a port is opened once a Service assigns a
    /// container port to it.
    fn ports<'a>(
        &self,
        snapshot: &Snapshot,
        wanted: impl Iterator<Item = &'a ListenerPort>,
    ) -> BTreeMap<ListenerPort, u16> {
        match &self.services_in {
            Some(namespace) => {
                let assigned = open_ports(snapshot, namespace);
                wanted.filter_map(|port| Some((port.clone(), *assigned.get(port)?))).collect()
            }
            None => wanted
                .map(|port| (port.clone(), self.port_map.get(&port.port).copied().unwrap_or(port.port)))
                .collect(),
        }
    }
}
