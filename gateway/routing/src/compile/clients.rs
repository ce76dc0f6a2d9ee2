//! `spec.tls.frontend` of Gateways: how the certificates of clients are verified.

use std::sync::Arc;

use forebay_resources::{Gateway, ObjectKey, Snapshot};
use gateway_api::gateways::{
    GatewayTlsFrontend, GatewayTlsFrontendDefaultValidationMode as DefaultMode,
    GatewayTlsFrontendPerPortTlsValidationMode as PerPortMode,
};

use super::authority;
use super::grants::is_granted;
use crate::condition::{ConditionStatus, reason};
use crate::names::GATEWAY_GROUP;

/// Whose certificates are accepted at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientAuthorities {
    /// Certificates of the authorities, in PEM.
    pub(super) pem: Arc<str>,
    /// `AllowInsecureFallback`: a client without a valid certificate may connect.
    pub(super) is_optional: bool,
}

/// What a listener makes of it.
#[derive(Debug)]
pub(super) struct ClientValidation {
    /// `None`: none of the references is valid, and the listener must not be served.
    pub(super) authorities: Option<ClientAuthorities>,
    /// Why a reference is invalid.
    pub(super) problem: Option<ConditionStatus>,
}

#[derive(Clone, Copy)]
struct Reference<'g> {
    group: &'g str,
    kind: &'g str,
    name: &'g str,
    namespace: Option<&'g str>,
}

macro_rules! references {
    ($validation:expr) => {
        $validation
            .ca_certificate_refs
            .iter()
            .map(|it| Reference {
                group: &it.group,
                kind: &it.kind,
                name: &it.name,
                namespace: it.namespace.as_deref(),
            })
            .collect()
    };
}

/// The references for a port, and whether certificates are optional. `None`: clients are not asked for one.
fn of_port(frontend: &GatewayTlsFrontend, port: i32) -> Option<(Vec<Reference<'_>>, bool)> {
    let mut per_port = frontend.per_port.iter().flatten();
    if let Some(own) = per_port.find(|it| it.port == port) {
        let validation = own.tls.validation.as_ref()?;
        let is_optional = validation.mode == Some(PerPortMode::AllowInsecureFallback);
        return Some((references!(validation), is_optional));
    }
    let validation = frontend.default.validation.as_ref()?;
    let is_optional = validation.mode == Some(DefaultMode::AllowInsecureFallback);
    Some((references!(validation), is_optional))
}

/// How clients are verified at an HTTPS listener of this port. `None`: they are not asked for a certificate.
pub(super) fn client_validation(
    snapshot: &Snapshot,
    key: &ObjectKey,
    gateway: &Gateway,
    port: i32,
) -> Option<ClientValidation> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let (references, is_optional) = of_port(frontend, port)?;
    let mut problem = references.is_empty().then(|| {
        ConditionStatus::unmet(reason::INVALID_CA_CERTIFICATE_REF, "tls.frontend has no caCertificateRef")
    });
    let mut bundles = Vec::new();
    for reference in references {
        match bundle(snapshot, key, reference) {
            Ok(bundle) => bundles.push(bundle),
            Err((reason, message)) => {
                let message = format!("tls.frontend: caCertificateRef {}: {message}", reference.name);
                problem = Some(ConditionStatus::unmet(reason, message));
            }
        }
    }
    let pem = (!bundles.is_empty()).then(|| Arc::from(bundles.join("\n")));
    let authorities = pem.map(|pem| ClientAuthorities { pem, is_optional });
    Some(ClientValidation { authorities, problem })
}

fn bundle<'s>(
    snapshot: &'s Snapshot,
    gateway: &ObjectKey,
    reference: Reference<'_>,
) -> Result<&'s str, (&'static str, String)> {
    let Reference { group, kind, name, namespace } = reference;
    if (group, kind) != ("", "ConfigMap") {
        let message = format!("the kind {kind} is not supported; ConfigMap is");
        return Err((reason::INVALID_CA_CERTIFICATE_KIND, message));
    }
    let namespace = namespace.unwrap_or(&gateway.namespace);
    let key = ObjectKey::new(namespace, name);
    let from = (GATEWAY_GROUP, "Gateway", gateway.namespace.as_str());
    if namespace != gateway.namespace && !is_granted(snapshot, from, ("", "ConfigMap"), &key) {
        let message = format!("no ReferenceGrant allows the Gateway to refer to the ConfigMap {key}");
        return Err((reason::REF_NOT_PERMITTED, message));
    }
    authority::bundle(snapshot, &key).map_err(|why| (reason::INVALID_CA_CERTIFICATE_REF, why))
}

/// The ConfigMaps that `spec.tls.frontend` names. The gateway watches them.
pub fn client_authorities(key: &ObjectKey, gateway: &Gateway) -> Vec<ObjectKey> {
    let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else {
        return Vec::new();
    };
    let ports = frontend.per_port.iter().flatten().map(|it| it.port);
    // No listener has port 0: of it, the default applies.
    let all = ports.chain([0]).filter_map(|port| of_port(frontend, port));
    let references = all.flat_map(|(references, _)| references);
    let named = references.filter(|it| (it.group, it.kind) == ("", "ConfigMap"));
    named.map(|it| ObjectKey::new(it.namespace.unwrap_or(&key.namespace), it.name)).collect()
}
