//! Conditions of listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_resources::{Gateway, ObjectKey, Snapshot};
use gateway_api::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From,
    GatewayListenersAllowedRoutesNamespacesSelector as Selector, GatewayListenersTlsMode,
};
use rustls::sign::CertifiedKey;

use super::certificate::Certificates;
use super::clients::{ClientAuthorities, ClientValidation, client_validation};
use crate::condition::{ConditionStatus, reason};
use crate::names::{GATEWAY_GROUP, HTTP_ROUTE};
use crate::table::{Hostname, ListenerPort, PortSharing};

const HTTP: &str = "HTTP";
const HTTPS: &str = "HTTPS";

/// A listener of a Gateway with its conditions.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) gateway: &'a ObjectKey,
    pub(super) spec: &'a GatewayListeners,
    pub(super) hostname: Hostname,
    /// The port that it needs; `None` if the number is invalid.
    pub(super) port: Option<ListenerPort>,
    pub(super) takes_http_routes: bool,
    /// Certificates of an HTTPS listener. It is not served without one.
    pub(super) keys: Vec<Arc<CertifiedKey>>,
    /// Whose certificates of clients it accepts. `None`: clients are not asked for one.
    pub(super) clients: Option<ClientAuthorities>,
    pub(super) accepted: ConditionStatus,
    pub(super) conflicted: ConditionStatus,
    pub(super) resolved_refs: ConditionStatus,
}

impl Listener<'_> {
    /// Whether it serves traffic.
    pub(super) fn is_served(&self) -> bool {
        self.accepted.is_true && !self.conflicted.is_true && (!self.is_tls() || !self.keys.is_empty())
    }

    /// A listener without any valid authority is not served: that would let in clients without a certificate.
    fn validate(&mut self, validation: ClientValidation) {
        if validation.authorities.is_none() {
            let message = "no caCertificateRef of tls.frontend is valid";
            self.accepted = ConditionStatus::unmet(reason::NO_VALID_CA_CERTIFICATE, message);
        }
        self.clients = validation.authorities;
        if let Some(problem) = validation.problem {
            self.resolved_refs = problem;
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.spec.protocol == HTTPS
    }

    pub(super) fn supported_kinds(&self) -> Vec<&'static str> {
        // Without a supported protocol no route kind is supported.
        let known = self.accepted.reason != reason::UNSUPPORTED_PROTOCOL;
        if self.takes_http_routes && known { vec![HTTP_ROUTE] } else { Vec::new() }
    }

    /// Whether routes of `namespace` may attach; the error says why not.
    pub(super) fn allows_namespace(&self, snapshot: &Snapshot, namespace: &str) -> Result<(), &'static str> {
        let namespaces = self.spec.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
            Some(From::All) => Ok(()),
            Some(From::Selector) => {
                let selector = namespaces.and_then(|namespaces| namespaces.selector.as_ref());
                if selector.is_some_and(|selector| selects(selector, snapshot, namespace)) {
                    Ok(())
                } else {
                    Err("the listener's selector does not select the route's namespace")
                }
            }
            Some(From::Same) | None if self.gateway.namespace == namespace => Ok(()),
            Some(From::Same) | None => Err("the listener allows routes of its own namespace only"),
        }
    }
}

/// All listeners of the Gateways of `class`, sorted by creation time of the Gateway, then by name.
pub(super) fn listeners<'a>(
    snapshot: &'a Snapshot,
    class: &str,
    sharing: PortSharing,
    certificates: &mut Certificates,
) -> Vec<Listener<'a>> {
    let mut gateways: Vec<(&ObjectKey, &Gateway)> = snapshot
        .gateways
        .iter()
        .filter(|(_, gateway)| gateway.spec.gateway_class_name == class)
        .map(|(key, gateway)| (key, &**gateway))
        .collect();
    gateways.sort_by_key(|(key, gateway)| {
        let created = gateway.metadata.creation_timestamp.clone();
        (created.is_none(), created, *key)
    });
    let mut listeners: Vec<Listener<'a>> = gateways
        .iter()
        .flat_map(|(key, gateway)| gateway.spec.listeners.iter().map(|spec| compile(key, spec, sharing)))
        .collect();
    for listener in listeners.iter_mut().filter(|listener| listener.accepted.is_true && listener.is_tls()) {
        let references = listener.spec.tls.as_ref().and_then(|tls| tls.certificate_refs.as_deref());
        let (keys, status) = certificates.resolve(snapshot, listener.gateway, references.unwrap_or_default());
        listener.keys = keys;
        if !status.is_true {
            listener.resolved_refs = status;
        }
        if let Some(gateway) = snapshot.gateways.get(listener.gateway) {
            let validation = client_validation(snapshot, listener.gateway, gateway, listener.spec.port);
            validation.into_iter().for_each(|validation| listener.validate(validation));
        }
    }
    find_conflicts(&mut listeners);
    listeners
}

fn compile<'a>(gateway: &'a ObjectKey, spec: &'a GatewayListeners, sharing: PortSharing) -> Listener<'a> {
    let number = u16::try_from(spec.port).ok().filter(|port| *port != 0);
    let port = number.map(|port| ListenerPort::new(gateway, port, sharing));
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    let accepted = match (spec.protocol.as_str(), &port) {
        (HTTPS, _) if matches!(mode, Some(GatewayListenersTlsMode::Passthrough)) => {
            ConditionStatus::unmet(reason::UNSUPPORTED_VALUE, "tls.mode Passthrough is not supported")
        }
        (HTTP | HTTPS, Some(_)) => ConditionStatus::met(reason::ACCEPTED),
        (HTTP | HTTPS, None) => {
            ConditionStatus::unmet(reason::PORT_UNAVAILABLE, format!("port {} is out of range", spec.port))
        }
        (other, _) => ConditionStatus::unmet(
            reason::UNSUPPORTED_PROTOCOL,
            format!("the protocol {other} is not supported"),
        ),
    };
    let (takes_http_routes, resolved_refs) = route_kinds(spec);
    Listener {
        gateway,
        spec,
        hostname: Hostname::parse(spec.hostname.as_deref()),
        port,
        takes_http_routes,
        keys: Vec::new(),
        clients: None,
        accepted,
        conflicted: ConditionStatus::unmet(reason::NO_CONFLICTS, ""),
        resolved_refs,
    }
}

/// Whether HTTPRoutes are among `allowedRoutes.kinds`, and the condition for unsupported kinds.
fn route_kinds(spec: &GatewayListeners) -> (bool, ConditionStatus) {
    let kinds = spec.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    let is_http_route = |kind: &&gateway_api::gateways::GatewayListenersAllowedRoutesKinds| {
        kind.kind == HTTP_ROUTE && kind.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
    };
    let resolved = match kinds.iter().find(|kind| !is_http_route(kind)) {
        None => ConditionStatus::met(reason::RESOLVED_REFS),
        Some(kind) => ConditionStatus::unmet(
            reason::INVALID_ROUTE_KINDS,
            format!("allowedRoutes.kinds: {} is not supported; only HTTPRoute is", kind.kind),
        ),
    };
    (kinds.is_empty() || kinds.iter().any(|kind| is_http_route(&kind)), resolved)
}

/// Indistinct listeners of one Gateway are all conflicted (Gateway API, Gateway.spec.listeners). Between Gateways
/// that share a port, the first one keeps it.
fn find_conflicts(listeners: &mut [Listener<'_>]) {
    let mut by_port: BTreeMap<ListenerPort, Vec<usize>> = BTreeMap::new();
    for (at, listener) in listeners.iter().enumerate().filter(|(_, listener)| listener.accepted.is_true) {
        if let Some(port) = &listener.port {
            by_port.entry(port.clone()).or_default().push(at);
        }
    }
    for group in by_port.into_values() {
        for (position, &at) in group.iter().enumerate() {
            let conflict = group.iter().enumerate().find_map(|(other_position, &other)| {
                let (one, two) = (&listeners[at], &listeners[other]);
                let loses = one.gateway == two.gateway || other_position < position;
                if other_position == position || !loses {
                    None
                } else if one.spec.protocol != two.spec.protocol {
                    Some((reason::PROTOCOL_CONFLICT, "a different protocol", two))
                } else if one.hostname == two.hostname {
                    Some((reason::HOSTNAME_CONFLICT, "the same hostname", two))
                } else if one.clients != two.clients {
                    Some((reason::PROTOCOL_CONFLICT, "another tls.frontend", two))
                } else {
                    None
                }
            });
            if let Some((reason, what, other)) = conflict {
                let message = format!(
                    "listener {} of Gateway {} has the same port and {what}",
                    other.spec.name, other.gateway
                );
                listeners[at].conflicted = ConditionStatus { is_true: true, reason, message };
            }
        }
    }
}

/// Whether the label selector selects the namespace. Without a Namespace object, the only known label is
/// `kubernetes.io/metadata.name`.
fn selects(selector: &Selector, snapshot: &Snapshot, namespace: &str) -> bool {
    const NAME_LABEL: &str = "kubernetes.io/metadata.name";
    let object = snapshot.namespaces.get(&ObjectKey::new("", namespace));
    let labels = object.and_then(|object| object.metadata.labels.as_ref());
    let label = |name: &str| match labels.and_then(|labels| labels.get(name)) {
        None if name == NAME_LABEL => Some(namespace),
        label => label.map(String::as_str),
    };
    let by_labels = selector.match_labels.iter().flatten().all(|(name, value)| label(name) == Some(value));
    let by_expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let values = expression.values.as_deref().unwrap_or_default();
        let label = label(&expression.key);
        let is_in = label.is_some_and(|label| values.iter().any(|value| value == label));
        match expression.operator.as_str() {
            "In" => is_in,
            "NotIn" => !is_in,
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            _ => false,
        }
    });
    by_labels && by_expressions
}
