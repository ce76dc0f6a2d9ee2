//! Addresses of pools and Services.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};

use crate::{
    key::ObjectKey,
    membership::{pod_ip, serving_ports},
    snapshot::Snapshot,
};

/// An endpoint of an InferencePool: pod IP and target port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolEndpoint {
    /// The pod.
    pub pod: ObjectKey,
    /// `metadata.uid` of the pod; empty if the manifest has none.
    pub uid: String,
    /// Pod IP and target port.
    pub address: SocketAddr,
    /// `spec.nodeName` of the pod.
    pub node_name: Option<String>,
    /// Labels of the pod.
    pub labels: BTreeMap<String, String>,
}

impl Snapshot {
    /// Endpoints of the pods that the pool selects in its namespace and that may get requests ([`Snapshot::exclusion`]): one
    /// for each pod and target port on which it serves, sorted by pod name. Of several pods with one address the first is
    /// taken. Empty for a pool that does not exist.
    pub fn pool_endpoints(&self, pool: &ObjectKey) -> Vec<PoolEndpoint> {
        let Some(object) = self.inference_pools.get(pool) else {
            return Vec::new();
        };
        let mut endpoints = Vec::new();
        let mut taken = HashSet::new();
        let addresses = self.addresses();
        for (key, pod) in self.pool_members().of(pool) {
            let Some(labels) = pod.metadata.labels.as_ref().filter(|_| addresses.exclusion(pod).is_none())
            else {
                continue;
            };
            let Some(ip) = pod_ip(pod) else { continue };
            let sockets = serving_ports(object, pod).map(|port| SocketAddr::new(ip, port));
            endpoints.extend(sockets.filter(|address| taken.insert(*address)).map(|address| PoolEndpoint {
                pod: key.clone(),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                address,
                node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
                labels: labels.clone(),
            }));
        }
        endpoints
    }

    /// The pods that the pool selects in its namespace, ready or not, sorted by name.
    pub fn pool_pods(&self, pool: &ObjectKey) -> Vec<(ObjectKey, Arc<Pod>)> {
        self.pool_members().of(pool).to_vec()
    }

    /// Ready addresses of `port` of a Service, from its EndpointSlices, which refer to the port by name.
    pub fn service_endpoints(&self, service: &ObjectKey, port: u16) -> Vec<SocketAddr> {
        let Some(port_name) = self.service_port_name(service, port) else {
            return Vec::new();
        };
        let addresses: BTreeSet<SocketAddr> = self
            .service_slices()
            .of(service)
            .iter()
            .flat_map(|slice| slice_addresses(slice, &port_name))
            .collect();
        addresses.into_iter().collect()
    }

    /// An unnamed port has an empty name in Service and EndpointSlice.
    fn service_port_name(&self, service: &ObjectKey, port: u16) -> Option<String> {
        let spec = self.services.get(service)?.spec.as_ref()?;
        let service_port = spec.ports.as_ref()?.iter().find(|candidate| candidate.port == i32::from(port))?;
        Some(service_port.name.clone().unwrap_or_default())
    }
}

fn slice_addresses(slice: &EndpointSlice, port_name: &str) -> Vec<SocketAddr> {
    let port =
        slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == port_name);
    let Some(number) = port.and_then(|port| port.port).and_then(|number| u16::try_from(number).ok()) else {
        return Vec::new();
    };
    slice
        .endpoints
        .iter()
        .flatten()
        // An unknown readiness counts as ready (discovery.k8s.io/v1, EndpointConditions).
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true))
        .flat_map(|endpoint| &endpoint.addresses)
        // Slices of type FQDN have names instead of addresses.
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, number))
        .collect()
}
