//! From objects to addresses: which pods a pool has, which addresses a Service has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{EndpointSlice, ObjectKey, Pod, Snapshot};

/// One pod IP and target port of an InferencePool that may get requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolEndpoint {
    pub pod: ObjectKey,
    /// The pod's `metadata.uid`; empty where the manifest has none.
    pub uid: String,
    pub address: SocketAddr,
    pub node_name: Option<String>,
    pub labels: BTreeMap<String, String>,
}

impl Snapshot {
    /// The Ready, not terminating pods that the pool's selector matches in the
    /// pool's namespace: one endpoint for each target port of each, ordered by
    /// pod name. Nothing for a pool that does not exist.
    pub fn pool_endpoints(&self, pool: &ObjectKey) -> Vec<PoolEndpoint> {
        let Some(spec) = self.inference_pools.get(pool).map(|pool| &pool.spec) else {
            return Vec::new();
        };
        let mut endpoints = Vec::new();
        for (key, pod) in self.members().of(pool) {
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

    /// The ready addresses behind `port` of a Service, from its EndpointSlices;
    /// the two sides meet in the port's name.
    pub fn service_endpoints(&self, service: &ObjectKey, port: u16) -> Vec<SocketAddr> {
        let Some(port_name) = self.service_port_name(service, port) else {
            return Vec::new();
        };
        let addresses: BTreeSet<SocketAddr> =
            self.slices().of(service).iter().flat_map(|slice| slice_addresses(slice, &port_name)).collect();
        addresses.into_iter().collect()
    }

    /// An unnamed port has the empty name, on both sides.
    fn service_port_name(&self, service: &ObjectKey, port: u16) -> Option<String> {
        let spec = self.services.get(service)?.spec.as_ref()?;
        let service_port = spec.ports.as_ref()?.iter().find(|candidate| candidate.port == i32::from(port))?;
        Some(service_port.name.clone().unwrap_or_default())
    }
}

/// `Ready` is `True` and no deletion has begun.
pub fn takes_requests(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The pod's primary address, once it has one.
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
        // Slices of type FQDN hold names, which are not addresses.
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, number))
        .collect()
}
