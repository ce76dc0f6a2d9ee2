//! Services that policies name: servers of key sets and of rate limits.

use std::net::SocketAddr;

use forebay_resources::{ObjectKey, Snapshot};
use serde::Deserialize;
use serde_json::Value;

use crate::compile::grants::is_granted;
use crate::compile::targets::target_level;

const POLICY: (&str, &str) = ("agentgateway.dev", "AgentgatewayPolicy");
const SERVICE: (&str, &str) = ("", "Service");

/// A `backendRef` to a Service.
#[derive(Debug)]
pub(super) struct ServiceRef {
    /// `None`: the namespace of the policy.
    namespace: Option<String>,
    name: String,
    pub(super) port: u16,
}

impl ServiceRef {
    /// An error starts with the path below the reference, or with a blank.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Spec {
            group: Option<String>,
            kind: Option<String>,
            namespace: Option<String>,
            name: String,
            port: Option<u16>,
        }
        let to = Spec::deserialize(value).map_err(|error| format!(": {error}"))?;
        let kind = to.kind.as_deref().unwrap_or("Service");
        if !to.group.as_deref().unwrap_or_default().is_empty() || kind != "Service" {
            return Err(format!(" to kind {kind} is not supported; only Service is"));
        }
        let port = to.port.filter(|port| *port > 0).ok_or(".port must be set for a Service")?;
        if to.name.is_empty() {
            return Err(".name is empty".into());
        }
        Ok(Self { namespace: to.namespace, name: to.name, port })
    }

    /// `namespace`: of the policy.
    pub(super) fn key(&self, namespace: &str) -> ObjectKey {
        ObjectKey::new(self.namespace.as_deref().unwrap_or(namespace), &self.name)
    }
}

/// What is spoken with a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Grpc,
}

impl Protocol {
    /// The values of `appProtocol` that name it. gRPC is HTTP/2 without TLS.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["http"],
            Self::Grpc => &["grpc", "kubernetes.io/h2c", "http2"],
        }
    }
}

/// Ready endpoints of the Service. Fails if the gateway may not use it. `namespace`: of the policy.
pub(super) fn endpoints(
    snapshot: &Snapshot,
    namespace: &str,
    key: &ObjectKey,
    number: u16,
    protocol: Protocol,
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
    let known = protocol.names();
    if let Some(other) = port.app_protocol.as_deref().filter(|given| !known.contains(given)) {
        let known = known.join(" and ");
        return Err(format!("the appProtocol {other} of the Service {key} is not supported; {known} is"));
    }
    if let Some(policy) = tls_policy(snapshot, key) {
        return Err(format!(
            "backend.tls of AgentgatewayPolicy {policy} for the Service {key} is not supported"
        ));
    }
    Ok(snapshot.service_endpoints(key, number))
}

/// A policy that requires TLS for connections to the Service: without it, the answers could be those of an attacker.
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
