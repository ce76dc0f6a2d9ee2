//! What is looked at.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use forebay_resources::{
    self, CONFIG_MAP_LABELS, Gateway, Kind, ObjectKey, Pod, Snapshot, Store,
    cluster::{Listed, Listing, Selection},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client, api::ListParams};

use super::Options;
use crate::{
    agents::{self, Selector},
    forward::Access,
};

/// The label that the chart gives the gateway.
pub(super) const GATEWAY_SELECTOR: &str = "app.kubernetes.io/name=forebay-gateway";
/// Of all namespaces.
const KINDS: [Kind; 8] = [
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::ReferenceGrant,
    Kind::InferencePool,
    Kind::InferenceObjective,
    Kind::InferenceModelRewrite,
    Kind::AgentgatewayPolicy,
];
/// Of the namespaces that have pools.
const BESIDE_POOLS: [Kind; 3] = [Kind::Pod, Kind::Service, Kind::EndpointSlice];

#[derive(Debug)]
pub(super) struct Installation {
    pub(super) snapshot: Snapshot,
    /// Of the Gateways that are served.
    pub(super) class: String,
    pub(super) agent_selector: Selector,
    /// Without one, the objects are a folder's: nothing has a status, nothing is installed.
    pub(super) cluster: Option<Cluster>,
    /// What the agents say; nothing where there are none to ask, or why they could not be.
    pub(super) agents: Option<Result<Vec<AgentAnswer>, String>>,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) outcomes: Vec<(Selection, Listed)>,
    /// Those of the gateway, or why they are not known.
    pub(super) deployments: Result<Vec<Deployment>, String>,
}

/// What one agent says.
#[derive(Clone, Debug)]
pub(super) struct AgentAnswer {
    /// For people.
    pub(super) name: String,
    pub(super) problem: Option<String>,
    /// Why it does not count in the kernel.
    pub(super) kernel_off: Option<String>,
}

impl Installation {
    pub(super) async fn read(options: &Options, access: &Access) -> anyhow::Result<Self> {
        let mut it = Self {
            snapshot: Snapshot::default(),
            class: options.gateway_class.clone(),
            agent_selector: options.agents.agent_selector.clone(),
            cluster: None,
            agents: None,
        };
        if let Some(folder) = &options.agents.resources {
            let store = Store::new();
            let _provider = forebay_resources::folder::start(folder, store.clone()).await?;
            it.snapshot = Snapshot::clone(&store.snapshot());
        } else {
            let (snapshot, cluster) = of_cluster(&access.client().await?, &it.agent_selector).await?;
            it.snapshot = snapshot;
            it.cluster = Some(cluster);
        }
        let has_some = it.agent_pods().next().is_some();
        if has_some || !options.agents.agents.is_empty() {
            it.agents = Some(ask(&options.agents, access).await);
        }
        Ok(it)
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether all objects of the kind are in the snapshot; those of one namespace where the kind is not
    /// asked for in all.
    pub(super) fn knows(&self, kind: Kind, namespace: Option<&str>) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        let mut outcomes = cluster.outcomes.iter();
        outcomes.all(|(selection, outcome)| {
            selection.kind() != kind
                || selection.namespace() != namespace
                || !matches!(outcome, Listed::Unknown(_))
        })
    }

    pub(super) fn knows_all(&self, kinds: impl IntoIterator<Item = Kind>) -> bool {
        kinds.into_iter().all(|kind| self.knows(kind, None))
    }

    /// The Gateways that Forebay serves.
    pub(super) fn gateways(&self) -> impl Iterator<Item = (&ObjectKey, &Gateway)> {
        let gateways = self.snapshot.gateways.iter().map(|(key, gateway)| (key, &**gateway));
        gateways.filter(|(_, gateway)| gateway.spec.gateway_class_name == self.class)
    }

    pub(super) fn agent_pods(&self) -> impl Iterator<Item = (&ObjectKey, &Pod)> {
        let pods = self.snapshot.pods.iter().map(|(key, pod)| (key, &**pod));
        pods.filter(|(_, pod)| self.agent_selector.matches(pod))
    }

    /// The Pods that the selector of a pool of their namespace matches.
    pub(super) fn pool_pods(&self, pool: &ObjectKey) -> impl Iterator<Item = (&ObjectKey, &Pod)> {
        let selector = self.snapshot.inference_pools.get(pool).map(|pool| &pool.spec.selector);
        let pods = self.snapshot.pods.in_namespace(&pool.namespace).map(|(key, pod)| (key, &**pod));
        pods.filter(move |(_, pod)| {
            let labels = pod.metadata.labels.as_ref();
            selector.zip(labels).is_some_and(|(selector, labels)| selector.matches(labels))
        })
    }
}

async fn of_cluster(client: &Client, agents: &Selector) -> anyhow::Result<(Snapshot, Cluster)> {
    match client.apiserver_version().await {
        Err(error @ kube::Error::Api(_)) if !is_unauthorized(&error) => {}
        answer => drop(answer.context("the API server does not let this user in, or does not answer")?),
    }
    let mut listing = Listing::default();
    let everywhere = KINDS.map(Selection::all);
    let maps = CONFIG_MAP_LABELS.map(|name| Selection::all(Kind::ConfigMap).labels(format!("{name}=true")));
    let agents = Selection::all(Kind::Pod).labels(agents.to_string());
    listing.add(client, everywhere.into_iter().chain(maps).chain([agents])).await;
    let namespaces: BTreeSet<String> =
        listing.snapshot.inference_pools.keys().map(|key| key.namespace.clone()).collect();
    let beside =
        namespaces.iter().flat_map(|name| BESIDE_POOLS.map(|kind| Selection::in_namespace(kind, name)));
    listing.add(client, beside).await;
    let gateways = ListParams::default().labels(GATEWAY_SELECTOR);
    let deployments = match Api::<Deployment>::all(client.clone()).list(&gateways).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => bail!("the API server does not answer any more: {error}"),
    };
    Ok((listing.snapshot, Cluster { outcomes: listing.outcomes, deployments }))
}

fn is_unauthorized(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 401)
}

async fn ask(options: &agents::Options, access: &Access) -> Result<Vec<AgentAnswer>, String> {
    let (_following, view) = agents::ask(options, access).await.map_err(|error| format!("{error:#}"))?;
    let answers = view.agents.iter().map(|agent| AgentAnswer {
        name: agent.name.clone(),
        problem: agent.problem().map(str::to_owned),
        kernel_off: agent.node.kernel_off.clone(),
    });
    Ok(answers.collect())
}
