//! Services that policies name: servers of key sets and of rate limits.

use std::net::SocketAddr;

use forebay_resources::{ObjectKey, Snapshot};

use super::tls;
use crate::compile::grants::is_granted;
use crate::table::ServerTls;

const POLICY: (&str, &str) = ("agentgateway.dev", "AgentgatewayPolicy");
const SERVICE: (&str, &str) = ("", "Service");

/// What is spoken with a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Grpc,
}

impl Protocol {
    /// The values of `appProtocol` that name it. gRPC is HTTP/2.
    fn names(self, is_tls: bool) -> &'static [&'static str] {
        match (self, is_tls) {
            (Self::Http, false) => &["http"],
            (Self::Http, true) => &["http", "https"],
            (Self::Grpc, false) => &["grpc", "kubernetes.io/h2c", "http2"],
            (Self::Grpc, true) => &["grpc", "http2", "https"],
        }
    }
}

/// A Service that the gateway may use.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// Ready ones.
    pub(super) endpoints: Vec<SocketAddr>,
    /// `None`: without TLS.
    pub(super) tls: Option<ServerTls>,
}

/// Fails if the gateway may not use the Service. `namespace`: of the policy.
pub(super) fn server(
    snapshot: &Snapshot,
    namespace: &str,
    key: &ObjectKey,
    number: u16,
    protocol: Protocol,
) -> Result<Server, String> {
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
    let tls = tls::of_service(snapshot, key, port.name.as_deref().unwrap_or_default())?;
    let known = protocol.names(tls.is_some());
    if let Some(other) = port.app_protocol.as_deref().filter(|given| !known.contains(given)) {
        let hint = if other == "https" { " without a BackendTLSPolicy" } else { "" };
        let known = known.join(" and ");
        return Err(format!(
            "the appProtocol {other} of the Service {key} is not supported{hint}; {known} is"
        ));
    }
    Ok(Server { endpoints: snapshot.service_endpoints(key, number), tls })
}
