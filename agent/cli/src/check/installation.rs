//! The objects to check.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use forebay_resources::{
    self, CONFIG_MAP_LABELS, Gateway, Kind, ObjectKey, Pod, Problem, Snapshot, Store,
    cluster::{Listed, Listing, Selection, replaced_objects},
};
use forebay_routing::{Certificates, PortSharing, Report, compile};
use forebay_telemetry::v1::Endpoint;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client, api::ListParams};

use super::{Options, references::backends};
use crate::{
    agents::{self, Selector},
    forward::Access,
};

/// The label that the chart gives the gateway.
pub(super) const GATEWAY_SELECTOR: &str = "app.kubernetes.io/name=forebay-gateway";
/// Listed in all namespaces.
const KINDS: [Kind; 11] = [
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::ReferenceGrant,
    Kind::BackendTlsPolicy,
    Kind::InferencePool,
    Kind::InferenceObjective,
    Kind::InferenceModelRewrite,
    Kind::AgentgatewayPolicy,
    Kind::Quota,
    Kind::Namespace,
];
/// Listed in namespaces with InferencePools.
const NEAR_POOLS: [Kind; 2] = [Kind::Pod, Kind::EndpointSlice];

#[derive(Debug)]
pub(super) struct Installation {
    pub(super) snapshot: Snapshot,
    /// Conditions as routing computes them from the snapshot.
    pub(super) report: Report,
    /// GatewayClass of the Gateways that are served.
    pub(super) class: String,
    pub(super) agent_selector: Selector,
    /// `None` if the objects are from a folder: there are no statuses and no installation.
    pub(super) cluster: Option<Cluster>,
    /// States of the agents, or why they could not be asked. `None` if there are no agents to ask.
    pub(super) agents: Option<Result<Vec<AgentState>, String>>,
    /// What the agents report of pods and ports.
    pub(super) endpoints: Endpoints,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) outcomes: Vec<(Selection, Listed)>,
    /// Deployments of the gateway, or why they could not be listed.
    pub(super) deployments: Result<Vec<Deployment>, String>,
    /// Objects of older API groups, or why they could not be listed.
    pub(super) replaced: Result<Vec<Problem>, String>,
}

/// One agent.
#[derive(Clone, Debug)]
pub(super) struct AgentState {
    /// For messages.
    pub(super) name: String,
    pub(super) problem: Option<String>,
    /// Why it does not count in the kernel; `None` if it does.
    pub(super) kernel_off: Option<String>,
}

impl Installation {
    pub(super) async fn read(options: &Options, access: &Access) -> anyhow::Result<Self> {
        let mut it = Self {
            snapshot: Snapshot::default(),
            report: Report::default(),
            class: options.gateway_class.clone(),
            agent_selector: options.agents.agent_selector.clone(),
            cluster: None,
            agents: None,
            endpoints: Endpoints::new(),
        };
        if let Some(folder) = &options.agents.resources {
            let store = Store::new();
            let _provider = forebay_resources::folder::start(folder, store.clone()).await?;
            it.snapshot = Snapshot::clone(&store.snapshot());
        } else {
            let (snapshot, cluster) = read_cluster(&access.client().await?, &it.agent_selector).await?;
            it.snapshot = snapshot;
            it.cluster = Some(cluster);
        }
        it.report = report(&it.snapshot, &it.class, it.is_cluster());
        let has_some = it.agent_pods().next().is_some();
        if has_some || !options.agents.agents.is_empty() {
            match ask(&options.agents, access).await {
                Ok((states, endpoints)) => (it.agents, it.endpoints) = (Some(Ok(states)), endpoints),
                Err(why) => it.agents = Some(Err(why)),
            }
        }
        Ok(it)
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether the snapshot has all objects of the kind: those of `namespace` where the kind is listed by namespace. What
    /// was not listed at all is not known.
    pub(super) fn knows(&self, kind: Kind, namespace: Option<&str>) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        let of_kind = || cluster.outcomes.iter().filter(|(selection, _)| selection.kind() == kind);
        let in_namespace: Vec<_> =
            of_kind().filter(|(selection, _)| selection.namespace() == namespace).collect();
        let outcomes = match in_namespace.is_empty() {
            true => of_kind().filter(|(selection, _)| *selection == Selection::all(kind)).collect(),
            false => in_namespace,
        };
        !outcomes.is_empty() && outcomes.iter().all(|(_, outcome)| !matches!(outcome, Listed::Unknown(_)))
    }

    pub(super) fn knows_all(&self, kinds: impl IntoIterator<Item = Kind>) -> bool {
        kinds.into_iter().all(|kind| self.knows(kind, None))
    }

    /// Whether all backends that HTTPRoutes refer to, and grants for them, could be listed.
    pub(super) fn knows_backends(&self) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        let kinds = [Kind::ReferenceGrant, Kind::InferencePool, Kind::Service];
        cluster.outcomes.iter().all(|(selection, outcome)| {
            !kinds.contains(&selection.kind()) || !matches!(outcome, Listed::Unknown(_))
        })
    }

    /// Whether the Gateway exists and has the checked class.
    pub(super) fn serves(&self, gateway: &ObjectKey) -> bool {
        let gateway = self.snapshot.gateways.get(gateway);
        gateway.is_some_and(|gateway| gateway.spec.gateway_class_name == self.class)
    }

    /// The Gateways of the checked class.
    pub(super) fn gateways(&self) -> impl Iterator<Item = (&ObjectKey, &Gateway)> {
        let gateways = self.snapshot.gateways.iter().map(|(key, gateway)| (key, &**gateway));
        gateways.filter(|(_, gateway)| gateway.spec.gateway_class_name == self.class)
    }

    pub(super) fn agent_pods(&self) -> impl Iterator<Item = (&ObjectKey, &Pod)> {
        let pods = self.snapshot.pods.iter().map(|(key, pod)| (key, &**pod));
        pods.filter(|(_, pod)| self.agent_selector.matches(pod))
    }

    /// The Pods that the pool selects.
    pub(super) fn pool_pods(&self, pool: &ObjectKey) -> impl Iterator<Item = (&ObjectKey, &Pod)> {
        let selector = self.snapshot.inference_pools.get(pool).map(|pool| &pool.spec.selector);
        let pods = self.snapshot.pods.in_namespace(&pool.namespace).map(|(key, pod)| (key, &**pod));
        pods.filter(move |(_, pod)| {
            let labels = pod.metadata.labels.as_ref();
            selector.zip(labels).is_some_and(|(selector, labels)| selector.matches(labels))
        })
    }
}

/// Conditions as the gateway would report them.
pub(super) fn report(snapshot: &Snapshot, class: &str, is_cluster: bool) -> Report {
    let sharing = if is_cluster { PortSharing::PerGateway } else { PortSharing::Shared };
    compile(snapshot, class, sharing, &mut Certificates::default()).1
}

async fn read_cluster(client: &Client, agents: &Selector) -> anyhow::Result<(Snapshot, Cluster)> {
    match client.apiserver_version().await {
        Err(error @ kube::Error::Api(_)) if !is_unauthorized(&error) => {}
        result => drop(result.context("the API server rejects this user, or is not reachable")?),
    }
    let mut listing = Listing::default();
    let everywhere = KINDS.map(Selection::all);
    let maps = CONFIG_MAP_LABELS.map(|name| Selection::all(Kind::ConfigMap).labels(format!("{name}=true")));
    let agents = Selection::all(Kind::Pod).labels(agents.to_string());
    listing.add(client, everywhere.into_iter().chain(maps).chain([agents])).await;
    let pools: BTreeSet<String> =
        listing.snapshot.inference_pools.keys().map(|key| key.namespace.clone()).collect();
    let routes = listing.snapshot.http_routes.iter();
    let backends: BTreeSet<String> = routes
        .flat_map(|(key, route)| {
            backends(key, route).map(|backend| backend.key.namespace).collect::<Vec<_>>()
        })
        .collect();
    let near_pools = pools.iter().flat_map(|name| NEAR_POOLS.map(|kind| Selection::in_namespace(kind, name)));
    let services = pools.union(&backends).map(|name| Selection::in_namespace(Kind::Service, name));
    listing.add(client, near_pools.chain(services)).await;
    let gateways = ListParams::default().labels(GATEWAY_SELECTOR);
    let deployments = match Api::<Deployment>::all(client.clone()).list(&gateways).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => bail!("the API server is not reachable any more: {error}"),
    };
    // During a migration, the same pool exists in both groups.
    let pools = &listing.snapshot.inference_pools;
    let replaced = replaced_objects(client).await.map(|objects| {
        let unserved = objects.into_iter().filter(|(key, _)| !pools.contains_key(key));
        unserved.map(|(_, problem)| problem).collect()
    });
    Ok((listing.snapshot, Cluster { outcomes: listing.outcomes, deployments, replaced }))
}

fn is_unauthorized(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 401)
}

type Endpoints = BTreeMap<(ObjectKey, u16), Endpoint>;

async fn ask(options: &agents::Options, access: &Access) -> Result<(Vec<AgentState>, Endpoints), String> {
    let (_streams, view) = agents::ask(options, access).await.map_err(|error| format!("{error:#}"))?;
    let states = view.agents.iter().map(|agent| AgentState {
        name: agent.name.clone(),
        problem: agent.problem().map(str::to_owned),
        kernel_off: agent.node.kernel_off.clone(),
    });
    let endpoints = view.agents.iter().flat_map(|agent| agent.replica.endpoints());
    let by_port = endpoints.filter_map(|endpoint| {
        let key = endpoint.key.as_ref()?;
        let port = u16::try_from(key.port).ok()?;
        Some(((ObjectKey::new(&key.namespace, &key.pod), port), endpoint.clone()))
    });
    Ok((states.collect(), by_port.collect()))
}
