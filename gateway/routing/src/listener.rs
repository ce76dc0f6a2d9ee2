//! Which listeners are served, and why others are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_resources::{Gateway, ObjectKey, Snapshot};
use gateway_api::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From,
    GatewayListenersAllowedRoutesNamespacesSelector as Selector, GatewayListenersTlsMode,
};
use rustls::sign::CertifiedKey;

use super::GATEWAY_GROUP;
use super::certificate::Certificates;
use super::hostname::Hostname;
use super::report::{Verdict, reason};
use super::table::{ListenerPort, PortSharing};

pub(super) const HTTP_ROUTE: &str = "HTTPRoute";
const HTTP: &str = "HTTP";
const HTTPS: &str = "HTTPS";

/// A listener of a Gateway, judged.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    pub(super) gateway: &'a ObjectKey,
    pub(super) spec: &'a GatewayListeners,
    pub(super) hostname: Hostname,
    /// What would have to be open for it.
    pub(super) port: Option<ListenerPort>,
    pub(super) takes_http_routes: bool,
    /// Of HTTPS listeners; without one nothing is served.
    pub(super) keys: Vec<Arc<CertifiedKey>>,
    pub(super) accepted: Verdict,
    pub(super) conflicted: Verdict,
    pub(super) resolved_refs: Verdict,
}

impl Listener<'_> {
    /// Whether traffic is served on it.
    pub(super) fn is_served(&self) -> bool {
        self.accepted.holds && !self.conflicted.holds && (!self.is_tls() || !self.keys.is_empty())
    }

    pub(super) fn is_tls(&self) -> bool {
        self.spec.protocol == HTTPS
    }

    pub(super) fn supported_kinds(&self) -> Vec<&'static str> {
        // With a protocol that is not known, no kind of route is.
        let known = self.accepted.reason != reason::UNSUPPORTED_PROTOCOL;
        if self.takes_http_routes && known { vec![HTTP_ROUTE] } else { Vec::new() }
    }

    /// Whether routes of that namespace may attach.
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

/// All listeners of the Gateways of `class`: the older Gateway first, then by name.
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
        let made = gateway.metadata.creation_timestamp.clone();
        (made.is_none(), made, *key)
    });
    let mut listeners: Vec<Listener<'a>> = gateways
        .iter()
        .flat_map(|(key, gateway)| gateway.spec.listeners.iter().map(|spec| judge(key, spec, sharing)))
        .collect();
    for listener in listeners.iter_mut().filter(|listener| listener.accepted.holds && listener.is_tls()) {
        let references = listener.spec.tls.as_ref().and_then(|tls| tls.certificate_refs.as_deref());
        let (keys, verdict) =
            certificates.resolve(snapshot, listener.gateway, references.unwrap_or_default());
        listener.keys = keys;
        if !verdict.holds {
            listener.resolved_refs = verdict;
        }
    }
    find_conflicts(&mut listeners);
    listeners
}

fn judge<'a>(gateway: &'a ObjectKey, spec: &'a GatewayListeners, sharing: PortSharing) -> Listener<'a> {
    let number = u16::try_from(spec.port).ok().filter(|port| *port != 0);
    let port = number.map(|port| ListenerPort::new(gateway, port, sharing));
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    let accepted = match (spec.protocol.as_str(), &port) {
        (HTTPS, _) if matches!(mode, Some(GatewayListenersTlsMode::Passthrough)) => {
            Verdict::no(reason::UNSUPPORTED_VALUE, "tls.mode Passthrough is not supported")
        }
        (HTTP | HTTPS, Some(_)) => Verdict::yes(reason::ACCEPTED),
        (HTTP | HTTPS, None) => Verdict::no(reason::PORT_UNAVAILABLE, format!("{} is no port", spec.port)),
        (other, _) => {
            Verdict::no(reason::UNSUPPORTED_PROTOCOL, format!("the protocol {other} is not supported"))
        }
    };
    let (takes_http_routes, resolved_refs) = judge_kinds(spec);
    Listener {
        gateway,
        spec,
        hostname: Hostname::parse(spec.hostname.as_deref()),
        port,
        takes_http_routes,
        keys: Vec::new(),
        accepted,
        conflicted: Verdict::no(reason::NO_CONFLICTS, ""),
        resolved_refs,
    }
}

/// `allowedRoutes.kinds`: kinds that are not supported are said to be so, beside those that are.
fn judge_kinds(spec: &GatewayListeners) -> (bool, Verdict) {
    let kinds = spec.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    let is_http_route = |kind: &&gateway_api::gateways::GatewayListenersAllowedRoutesKinds| {
        kind.kind == HTTP_ROUTE && kind.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
    };
    let resolved = match kinds.iter().find(|kind| !is_http_route(kind)) {
        None => Verdict::yes(reason::RESOLVED_REFS),
        Some(kind) => Verdict::no(
            reason::INVALID_ROUTE_KINDS,
            format!("allowedRoutes.kinds: {} is not supported, only HTTPRoute is", kind.kind),
        ),
    };
    (kinds.is_empty() || kinds.iter().any(|kind| is_http_route(&kind)), resolved)
}

/// Listeners of one Gateway that cannot be told apart are all refused, as the specification asks. Between
/// Gateways that share a port, the first one keeps it.
fn find_conflicts(listeners: &mut [Listener<'_>]) {
    let mut by_port: BTreeMap<ListenerPort, Vec<usize>> = BTreeMap::new();
    for (at, listener) in listeners.iter().enumerate().filter(|(_, listener)| listener.accepted.holds) {
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
                    Some((reason::PROTOCOL_CONFLICT, "another protocol", two))
                } else if one.hostname == two.hostname {
                    Some((reason::HOSTNAME_CONFLICT, "the same hostname", two))
                } else {
                    None
                }
            });
            if let Some((reason, what, other)) = conflict {
                let message = format!(
                    "listener {} of Gateway {} has the same port and {what}",
                    other.spec.name, other.gateway
                );
                listeners[at].conflicted = Verdict { holds: true, reason, message };
            }
        }
    }
}

/// A label selector on a namespace. Where no Namespace objects are known, only the label that every
/// namespace has by its name is.
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
