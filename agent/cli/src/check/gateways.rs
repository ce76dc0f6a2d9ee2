//! Gateways of the class: conditions, addresses, attached routes.

use forebay_resources::{Gateway, Kind, ObjectKey};
use forebay_routing::{ListenerReport, gateway_parents, reason};
use gateway_api::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewayStatusListeners,
};
use serde_json::json;

use super::{
    advice::{Advice, kubectl, quote},
    class::gateway_log,
    condition::{BadCondition, computed, written},
    finding::{Finding, Object, or_ok},
    installation::Installation,
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows(Kind::Gateway, None) {
        return Vec::new();
    }
    let mut findings = without_class(installation);
    if installation.gateways().next().is_none() {
        let message = format!("no Gateway has the class {}: nothing is served", installation.class);
        let fix = "apply a Gateway with that spec.gatewayClassName (or set inferenceGateway.enabled=true in the release)";
        findings.push(Finding::error(Object::all("Gateways"), message, fix));
    }
    for (key, gateway) in installation.gateways() {
        let of_gateway = match &gateway.status {
            Some(_) => with_status(installation, key, gateway),
            // Only a cluster has a controller that writes statuses.
            None if installation.is_cluster() => {
                vec![Finding::error(
                    Object::new("Gateway", key),
                    "has no status yet",
                    gateway_log(installation),
                )]
            }
            None => {
                let listeners = gateway.spec.listeners.iter();
                listeners.flat_map(|spec| listener_conditions(installation, key, spec, None)).collect()
            }
        };
        findings.extend(or_ok(of_gateway, || {
            let message = if installation.is_cluster() {
                "programmed, with an address, and routes are attached"
            } else {
                "its listeners are valid"
            };
            Finding::ok(Object::new("Gateway", key), message)
        }));
    }
    findings
}

/// Gateways with a class that does not exist.
fn without_class(installation: &Installation) -> Vec<Finding> {
    if !installation.is_cluster() || !installation.knows(Kind::GatewayClass, None) {
        return Vec::new();
    }
    let ours = &installation.class;
    let unserved = installation.snapshot.gateways.iter().filter(|(_, gateway)| {
        let class = &gateway.spec.gateway_class_name;
        class != ours && !installation.snapshot.gateway_classes.contains_key(&ObjectKey::new("", class))
    });
    unserved
        .map(|(key, gateway)| {
            let message = format!(
                "has the class {}, which does not exist: no controller serves it",
                gateway.spec.gateway_class_name
            );
            Finding::error(Object::new("Gateway", key), message, class_fix(key, gateway, ours))
        })
        .collect()
}

/// A command only if no controller has ever taken the Gateway: a data plane may outlive its class.
fn class_fix(key: &ObjectKey, gateway: &Gateway, ours: &str) -> Advice {
    let conditions = gateway.status.as_ref().and_then(|status| status.conditions.as_deref());
    // The API server sets conditions with status Unknown by default.
    if conditions.unwrap_or_default().iter().any(|condition| condition.status != "Unknown") {
        let fix = format!(
            "if it shall be served by Forebay, set spec.gatewayClassName: {ours}; a controller has served it, and may do so still"
        );
        return fix.into();
    }
    let (namespace, name) = (quote(&key.namespace), quote(&key.name));
    let patch = quote(&json!({ "spec": { "gatewayClassName": ours } }).to_string());
    Advice::Command(format!("kubectl patch gateway {name} -n {namespace} --type=merge -p={patch}"))
}

fn describe(key: &ObjectKey) -> Advice {
    kubectl(&["describe", "gateway", "-n", &key.namespace, &key.name])
}

fn with_status(installation: &Installation, key: &ObjectKey, gateway: &Gateway) -> Vec<Finding> {
    let object = || Object::new("Gateway", key);
    let Some(status) = &gateway.status else { return Vec::new() };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let mut findings = Vec::new();
    for name in ["Accepted", "Programmed"] {
        if let Some(why) = written(conditions, name) {
            findings.push(Finding::error(object(), why.to_string(), describe(key)).because(why.reason));
        }
    }
    if status.addresses.as_deref().unwrap_or_default().is_empty() {
        let fix = format!(
            "wait for the address of its Service (kubectl get services -A), or set another gateway.serviceType; {}",
            describe(key)
        );
        findings.push(Finding::warning(object(), "has no address", fix));
    }
    for spec in &gateway.spec.listeners {
        let listener = status.listeners.iter().flatten().find(|listener| listener.name == spec.name);
        findings.extend(listener_conditions(installation, key, spec, listener));
        findings.extend(listener.and_then(|listener| without_routes(installation, key, spec, listener)));
    }
    findings
}

/// Conditions of a listener that are bad: as routing computes them, else as the gateway has written them.
fn listener_conditions(
    installation: &Installation,
    key: &ObjectKey,
    spec: &GatewayListeners,
    status: Option<&GatewayStatusListeners>,
) -> Vec<Finding> {
    let finding = |why: BadCondition| {
        let message = format!("listener {}: {why}", spec.name);
        Finding::error(Object::new("Gateway", key), message, describe(key)).because(why.reason)
    };
    let report = installation.report.gateways.get(key).into_iter().flatten();
    if let Some(report) = report.into_iter().find(|report| report.name == spec.name) {
        let computed = computed_conditions(installation, report);
        if !computed.is_empty() {
            return computed.into_iter().map(finding).collect();
        }
    }
    match status {
        Some(status) => {
            let names = ["Accepted", "ResolvedRefs", "Programmed"];
            names.iter().filter_map(|name| written(&status.conditions, name)).map(finding).collect()
        }
        None if installation.is_cluster() => {
            let message = format!("listener {}: has no status yet", spec.name);
            vec![Finding::error(Object::new("Gateway", key), message, describe(key))]
        }
        None => Vec::new(),
    }
}

fn computed_conditions(installation: &Installation, report: &ListenerReport) -> Vec<BadCondition> {
    let mut bad: Vec<BadCondition> = Vec::new();
    bad.extend(computed(&report.accepted, "Accepted"));
    // Certificates cannot be judged without the Secrets, which are not read from a cluster.
    let refs_are_known =
        report.resolved_refs.reason != reason::INVALID_CERTIFICATE_REF || !installation.is_cluster();
    bad.extend(computed(&report.resolved_refs, "ResolvedRefs").filter(|_| refs_are_known));
    if report.conflicted.is_true {
        bad.push(BadCondition::bad("Conflicted", &report.conflicted));
    }
    bad
}

/// Allows routes of one more namespace. `from: All` would allow routes of every team.
pub(super) fn allow_namespace(namespace: &str, gateway: &ObjectKey) -> String {
    format!(
        "allow the namespace {namespace} on the listener of Gateway {gateway}: allowedRoutes.namespaces.from: Selector with the \
         label kubernetes.io/metadata.name, or from: All for every namespace"
    )
}

/// Why a listener has no attached routes; `None` if it has some.
fn without_routes(
    installation: &Installation,
    key: &ObjectKey,
    spec: &GatewayListeners,
    status: &GatewayStatusListeners,
) -> Option<Finding> {
    if status.attached_routes != 0 {
        return None;
    }
    let object = Object::new("Gateway", key);
    let none = |why: &str| format!("listener {}: no HTTPRoute is attached: {why}", spec.name);
    if !installation.knows(Kind::HttpRoute, None) {
        let message = none("HTTPRoutes cannot be listed");
        return Some(Finding::warning(object, message, kubectl(&["get", "httproutes", "-A"])));
    }
    // Routes that name a Gateway of this name in a namespace that has none, and routes that name this one.
    let (mut wrong_namespace, mut refused) = (None, None);
    for (route_key, route) in &installation.snapshot.http_routes {
        for (_, gateway, _) in gateway_parents(route_key, route) {
            if gateway == *key {
                refused = refused.or(Some(route_key));
            } else if gateway.name == key.name && !installation.snapshot.gateways.contains_key(&gateway) {
                wrong_namespace = wrong_namespace.or(Some(route_key));
            }
        }
    }
    let from = spec.allowed_routes.as_ref().and_then(|it| it.namespaces.as_ref()?.from.as_ref());
    let (why, fix) = match (wrong_namespace, refused) {
        (_, Some(route)) if route.namespace != key.namespace && matches!(from, None | Some(From::Same)) => (
            format!(
                "HTTPRoute {route} names this Gateway, but the listener allows routes of its own namespace only"
            ),
            allow_namespace(&route.namespace, key),
        ),
        (_, Some(route)) => {
            (format!("HTTPRoute {route} names this Gateway"), "see the finding for that route".to_owned())
        }
        (Some(route), None) => (
            format!("HTTPRoute {route} names a Gateway {} in another namespace", key.name),
            "set the namespace in the route's parentRefs; see the finding for that route".to_owned(),
        ),
        (None, None) => (
            "no HTTPRoute names this Gateway".to_owned(),
            format!("add to the routes' parentRefs: {{name: {}, namespace: {}}}", key.name, key.namespace),
        ),
    };
    Some(Finding::warning(object, none(&why), fix))
}
