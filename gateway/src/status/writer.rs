//! The task that writes statuses and Services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_resources::cluster::{ClusterProvider, Statuses};
use forebay_resources::{Kind, ObjectKey};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::applied::Applied;
use super::events::Events;
use super::lease::Candidate;
use super::services::{Plan, PortRange, ServiceOptions, plan};
use super::statuses::{Change, Written, changes};
use super::{FIELD_MANAGER, owner};
use forebay_routing::ListenerPort;

/// Pause between passes. Changes within it are written together.
const PAUSE: Duration = Duration::from_millis(100);
/// Retry interval after a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// Maximum concurrent writes.
const CONCURRENCY: usize = 8;
/// Maximum time for one write.
const REQUEST: Duration = Duration::from_secs(5);

/// Options of the writer.
#[derive(Clone, Debug)]
pub(crate) struct WriterOptions {
    /// Namespace of the gateway pods.
    pub(crate) namespace: String,
    /// Name of this pod.
    pub(crate) identity: String,
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) service_type: String,
    pub(crate) ports: PortRange,
}

/// Writes statuses and Services while this replica holds the Lease.
pub(crate) struct Writer {
    client: Client,
    identity: String,
    options: ServiceOptions,
    applied: watch::Receiver<Applied>,
    statuses: watch::Receiver<Arc<Statuses>>,
    is_holder: watch::Receiver<bool>,
    owner: Option<OwnerReference>,
    assigned: BTreeMap<ListenerPort, u16>,
    written: Written,
    events: Events,
    /// Failures that were logged already.
    failing: BTreeSet<String>,
}

impl Writer {
    /// Starts the writer and its Lease. They run until `stop` is cancelled.
    pub(crate) fn start(
        provider: &ClusterProvider,
        options: WriterOptions,
        applied: watch::Receiver<Applied>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let client = provider.client().clone();
        let candidate = Candidate::new(client.clone(), &options.namespace, options.identity.clone());
        let events = Events::new(client.clone(), options.identity.clone());
        let writer = Self {
            client,
            events,
            identity: options.identity,
            is_holder: candidate.subscribe(),
            options: ServiceOptions {
                namespace: options.namespace,
                selector: options.selector,
                service_type: options.service_type,
                range: options.ports,
            },
            applied,
            statuses: provider.statuses(),
            owner: None,
            assigned: BTreeMap::new(),
            written: Written::default(),
            failing: BTreeSet::new(),
        };
        tasks.spawn(candidate.run(stop.clone()));
        tasks.spawn(writer.run(stop.clone()));
    }

    async fn run(mut self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(self.is_holder.wait_for(|holds| *holds))
            .await
            .is_some_and(|it| it.is_ok())
        {
            // Ports that another replica has assigned are in the snapshot.
            self.assigned.clear();
            let mut is_holder = self.is_holder.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = is_holder.wait_for(|holds| !*holds) => {}
                () = self.write() => {}
            }
        }
    }

    /// Writes until the data plane ends.
    async fn write(&mut self) {
        self.find_owner().await;
        loop {
            let applied = self.applied.borrow_and_update().clone();
            let statuses = self.statuses.borrow_and_update().clone();
            let mut failing = BTreeSet::new();
            if applied.snapshot.generation > 0 {
                let plan = self.plan(&applied);
                let refused = plan.refused.clone();
                self.apply_services(plan, &mut failing).await;
                let changes =
                    changes(&applied, &statuses, &self.options.namespace, &refused, &mut self.written);
                self.write_statuses(changes, &mut failing).await;
            }
            for problem in failing.difference(&self.failing) {
                tracing::warn!("{problem}; retrying in {} s", RETRY.as_secs());
            }
            let again = !failing.is_empty();
            self.failing = failing;
            sleep(PAUSE).await;
            tokio::select! {
                changed = self.applied.changed() => if changed.is_err() { return },
                changed = self.statuses.changed() => if changed.is_err() { return },
                () = sleep(RETRY), if again => {}
            }
        }
    }

    async fn find_owner(&mut self) {
        match owner::deployment(&self.client, &self.options.namespace, &self.identity).await {
            Ok(owner) => self.owner = owner,
            Err(error) => {
                tracing::warn!(%error, "cannot find the Deployment of this pod; Services of Gateways will not be deleted with it");
            }
        }
    }

    fn plan(&mut self, applied: &Applied) -> Plan {
        let wanted: BTreeMap<ObjectKey, BTreeSet<u16>> = applied
            .report
            .gateways
            .iter()
            .map(|(key, listeners)| {
                let ports = listeners.iter().filter_map(|it| it.port.as_ref()).map(|it| it.port);
                (key.clone(), ports.collect())
            })
            .collect();
        plan(&applied.snapshot, &self.options, self.owner.as_ref(), &wanted, &mut self.assigned)
    }

    async fn apply_services(&self, plan: Plan, failing: &mut BTreeSet<String>) {
        let key = |name: &str| ObjectKey::new(&self.options.namespace, name);
        for (name, service) in plan.apply {
            let api = forebay_resources::cluster::api(&self.client, Kind::Service, &key(&name));
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let patch = Patch::Apply(&service);
            if let Err(why) = request(api.patch(&name, &params, &patch)).await {
                failing.insert(format!("cannot write Service {}: {why}", key(&name)));
            }
        }
        for name in plan.delete {
            let api = forebay_resources::cluster::api(&self.client, Kind::Service, &key(&name));
            match request(api.delete(&name, &DeleteParams::default())).await {
                Ok(_) | Err(Failure::Gone) => {}
                Err(why) => drop(failing.insert(format!("cannot delete Service {}: {why}", key(&name)))),
            }
        }
    }

    async fn write_statuses(&mut self, changes: Vec<Change>, failing: &mut BTreeSet<String>) {
        let client = &self.client;
        let written = stream::iter(changes)
            .map(async |change| {
                let Change { kind, key, resource_version, status, .. } = &change;
                let written =
                    request(super::api::patch_status(client, *kind, key, resource_version, status)).await;
                (change, written)
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<Vec<_>>()
            .await;
        for (change, written) in written {
            match written {
                // A newer version or the deletion of the object will arrive and start the next pass. Objects of an
                // older API group get no status, so nothing arrives for them.
                Ok(true) => {
                    self.events.publish(&change.reference(), &change.transitions).await;
                    self.written.add(change);
                }
                Err(Failure::Conflict | Failure::Gone) => self.written.add(change),
                Ok(false) => {}
                Err(why) => {
                    failing.insert(format!(
                        "cannot write the status of {:?} {}: {why}",
                        change.kind, change.key
                    ));
                }
            }
        }
    }
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the object does not exist any more")]
    Gone,
    #[error("the object has changed")]
    Conflict,
    #[error("{0}")]
    Refused(String),
    #[error("no response in time")]
    Timeout,
}

async fn request<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => Failure::Gone,
            409 => Failure::Conflict,
            _ => Failure::Refused(status.message.clone()),
        }),
        Ok(Err(error)) => Err(Failure::Refused(error.to_string())),
        Err(_) => Err(Failure::Timeout),
    }
}
