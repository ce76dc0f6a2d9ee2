//! Target ports of a pool, compared with the ports that its pods declare.

use std::collections::BTreeSet;

use forebay_resources::{InferencePool, ObjectKey, Pod};
use k8s_openapi::api::core::v1::Container;

use super::super::finding::{Finding, Object};

/// Declaring ports is optional for pods. If they do, the target ports should be among them.
pub(super) fn check(key: &ObjectKey, pool: &InferencePool, pods: &[(&ObjectKey, &Pod)]) -> Vec<Finding> {
    let declared = declared(pods.iter().map(|(_, pod)| *pod));
    if declared.is_empty() {
        return Vec::new();
    }
    let targets = pool.spec.target_ports.iter().map(|port| port.number.get());
    targets
        .filter(|target| !declared.contains(target))
        .map(|target| {
            let there = declared.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message =
                format!("target port {target} is not among the ports that its pods declare: {there}");
            let fix = "set spec.targetPorts of the pool to the port on which requests arrive: that of the model server, or of \
                the sidecar in front of it";
            Finding::warning(Object::new("InferencePool", key), message, fix)
        })
        .collect()
}

/// Ports of all containers that run beside each other: native sidecars are init containers that are restarted.
pub(super) fn declared<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<u16> {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    pods.flat_map(|pod| pod.spec.iter())
        .flat_map(|spec| {
            spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(is_sidecar))
        })
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect()
}
