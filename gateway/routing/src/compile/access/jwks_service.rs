//! The Service that a key set is loaded from.

use std::net::SocketAddr;

use forebay_resources::{ObjectKey, Snapshot};

use crate::compile::grants::is_granted;
use crate::compile::targets::target_level;

const POLICY: (&str, &str) = ("agentgateway.dev", "AgentgatewayPolicy");
const SERVICE: (&str, &str) = ("", "Service");

/// Ready endpoints of the Service. Fails if keys cannot be loaded from it. `namespace`: of the policy.
pub(super) fn endpoints(
    snapshot: &Snapshot,
    namespace: &str,
    key: &ObjectKey,
    number: u16,
) -> Result<Vec<SocketAddr>, String> {
    let from = (POLICY.0, POLICY.1, namespace);
    if key.namespace != namespace && !is_granted(snapshot, from, SERVICE, key) {
        return Err(format!("no ReferenceGrant allows the policy to refer to the Service {key}"));
    }
    let service = snapshot.services.get(key).ok_or_else(|| format!("the Service {key} does not exist"))?;
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Err(format!("the Service {key} has the type ExternalName, which is not supported"));
    }
    let mut ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let port = ports
        .find(|port| port.port == i32::from(number))
        .ok_or_else(|| format!("the Service {key} does not have the port {number}"))?;
    if let Some(protocol) = port.app_protocol.as_deref().filter(|protocol| *protocol != "http") {
        return Err(format!("the appProtocol {protocol} of the Service {key} is not supported; http is"));
    }
    if let Some(policy) = tls_policy(snapshot, key) {
        return Err(format!(
            "backend.tls of AgentgatewayPolicy {policy} for the Service {key} is not supported"
        ));
    }
    Ok(snapshot.service_endpoints(key, number))
}

/// A policy that requires TLS for connections to the Service: without it, the keys could be those of an attacker.
fn tls_policy<'s>(snapshot: &'s Snapshot, service: &ObjectKey) -> Option<&'s ObjectKey> {
    let labels = snapshot.services.get(service)?.metadata.labels.as_ref();
    let mut policies = snapshot.agentgateway_policies.in_namespace(&service.namespace);
    let found = policies.find(|(_, policy)| {
        let backend = policy.spec.other.get("backend");
        let has_tls = backend.and_then(|backend| backend.get("tls")).is_some_and(|tls| !tls.is_null());
        has_tls && target_level(policy, SERVICE, &service.name, labels, |_| true).is_some()
    });
    found.map(|(key, _)| key)
}
