//! Addresses of pools and Services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};

use crate::{key::ObjectKey, snapshot::Snapshot};

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
    /// Endpoints of the ready, not terminating pods that the pool selects in its namespace: one for each pod and target
    /// port, sorted by pod name. Empty for a pool that does not exist.
    pub fn pool_endpoints(&self, pool: &ObjectKey) -> Vec<PoolEndpoint> {
        let Some(spec) = self.inference_pools.get(pool).map(|pool| &pool.spec) else {
            return Vec::new();
        };
        let mut endpoints = Vec::new();
        for (key, pod) in self.pool_members().of(pool) {
            let Some(labels) = pod.metadata.labels.as_ref().filter(|_| takes_requests(pod)) else { continue };
            let Some(ip) = pod_ip(pod) else { continue };
            endpoints.extend(spec.target_ports.iter().map(|port| PoolEndpoint {
                pod: key.clone(),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                address: SocketAddr::new(ip, port.number.get()),
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

/// Whether the pod is ready and not being deleted.
pub fn takes_requests(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The pod's primary address; `None` before it has one.
pub fn pod_ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
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
