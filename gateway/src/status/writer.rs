//! The task that writes while this replica holds the Lease.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_resources::cluster::{ClusterProvider, Statuses};
use forebay_resources::{Kind, ObjectKey, Snapshot};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lease::Candidate;
use super::services::{Plan, PortRange, ServiceOptions, plan};
use super::statuses::{Change, Written, changes};
use super::{FIELD_MANAGER, owner};
use forebay_routing::{ListenerPort, Report};

/// Between two passes: a storm of changes is written as one.
const PAUSE: Duration = Duration::from_millis(100);
/// After something could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// Writes under way at one time.
const CONCURRENCY: usize = 8;
/// One write may take as long.
const REQUEST: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(crate) struct WriterOptions {
    /// Where the gateway's pods are.
    pub(crate) namespace: String,
    /// This pod.
    pub(crate) identity: String,
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) service_type: String,
    pub(crate) ports: PortRange,
}

/// What the data plane does, and what it was made from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) report: Arc<Report>,
    /// The ports that this replica has opened.
    pub(crate) addresses: Arc<BTreeMap<ListenerPort, SocketAddr>>,
}

pub(crate) struct Writer {
    client: Client,
    identity: String,
    options: ServiceOptions,
    applied: watch::Receiver<Applied>,
    statuses: watch::Receiver<Arc<Statuses>>,
    is_holder: watch::Receiver<bool>,
    owner: Option<OwnerReference>,
    given: BTreeMap<ListenerPort, u16>,
    written: Written,
    /// What is failing, as it was logged.
    failing: BTreeSet<String>,
}

impl Writer {
    /// Takes part in `tasks` until `stop`.
    pub(crate) fn start(
        provider: &ClusterProvider,
        options: WriterOptions,
        applied: watch::Receiver<Applied>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let client = provider.client().clone();
        let candidate = Candidate::new(client.clone(), &options.namespace, options.identity.clone());
        let writer = Self {
            client,
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
            given: BTreeMap::new(),
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
            // What another has written meanwhile is in the snapshot.
            self.given.clear();
            let mut is_holder = self.is_holder.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = is_holder.wait_for(|holds| !*holds) => {}
                () = self.write() => {}
            }
        }
    }

    /// Returns only when the data plane has ended.
    async fn write(&mut self) {
        self.find_owner().await;
        loop {
            let applied = self.applied.borrow_and_update().clone();
            let statuses = self.statuses.borrow_and_update().clone();
            let mut failing = BTreeSet::new();
            if applied.snapshot.generation > 0 {
                let plan = self.plan(&applied);
                let refused = plan.refused.clone();
                self.carry_out(plan, &mut failing).await;
                let changes =
                    changes(&applied, &statuses, &self.options.namespace, &refused, &mut self.written);
                self.write_statuses(changes, &mut failing).await;
            }
            for problem in failing.difference(&self.failing) {
                tracing::warn!("{problem}; it is tried again");
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
                tracing::warn!(%error, "the Deployment of this pod cannot be found: Services of Gateways will stay after it");
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
        plan(&applied.snapshot, &self.options, self.owner.as_ref(), &wanted, &mut self.given)
    }

    async fn carry_out(&self, plan: Plan, failing: &mut BTreeSet<String>) {
        let key = |name: &str| ObjectKey::new(&self.options.namespace, name);
        for (name, service) in plan.apply {
            let api = forebay_resources::cluster::api(&self.client, Kind::Service, &key(&name));
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let patch = Patch::Apply(&service);
            if let Err(why) = request(api.patch(&name, &params, &patch)).await {
                failing.insert(format!("Service {} cannot be written: {why}", key(&name)));
            }
        }
        for name in plan.delete {
            let api = forebay_resources::cluster::api(&self.client, Kind::Service, &key(&name));
            match request(api.delete(&name, &DeleteParams::default())).await {
                Ok(_) | Err(Failure::Gone) => {}
                Err(why) => drop(failing.insert(format!("Service {} cannot be deleted: {why}", key(&name)))),
            }
        }
    }

    async fn write_statuses(&mut self, changes: Vec<Change>, failing: &mut BTreeSet<String>) {
        let client = &self.client;
        let written = stream::iter(changes)
            .map(async |change| {
                let Change { kind, key, resource_version, status } = &change;
                let written =
                    request(super::api::patch_status(client, *kind, key, resource_version, status)).await;
                (change, written)
            })
            .buffer_unordered(CONCURRENCY)
            .collect::<Vec<_>>()
            .await;
        for (change, written) in written {
            match written {
                // The newer version is on its way, and with it the next pass; or the end of the object, or nothing:
                // it is of an older group, whose objects have no status of ours.
                Ok(true) | Err(Failure::Conflict | Failure::Gone) => self.written.add(change),
                Ok(false) => {}
                Err(why) => {
                    failing.insert(format!(
                        "the status of {:?} {} cannot be written: {why}",
                        change.kind, change.key
                    ));
                }
            }
        }
    }
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it is not there any more")]
    Gone,
    #[error("it has changed meanwhile")]
    Conflict,
    #[error("{0}")]
    Refused(String),
    #[error("no answer in time")]
    Late,
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
        Err(_) => Err(Failure::Late),
    }
}
