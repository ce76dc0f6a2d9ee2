//! The Gateways of the class: programmed, with addresses, and with routes.

use forebay_resources::{Gateway, Kind, ObjectKey};
use gateway_api::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewayStatusListeners,
};

use super::{
    condition::why_not,
    finding::{Finding, Place, or_ok},
    installation::{GATEWAY_SELECTOR, Installation},
    references::parents,
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows(Kind::Gateway, None) {
        return Vec::new();
    }
    let mut findings = without_class(installation);
    if installation.gateways().next().is_none() {
        let what = format!("none has the class {}: nothing is served", installation.class);
        let fix = "apply a Gateway with that spec.gatewayClassName (or: helm upgrade … --set inferenceGateway.enabled=true)";
        findings.push(Finding::error(Place::all("Gateways"), what, fix));
    }
    for (key, gateway) in installation.gateways() {
        // Only in a cluster somebody writes statuses.
        if installation.is_cluster() {
            findings.extend(or_ok(judge(installation, key, gateway), || {
                Finding::ok(
                    Place::new("Gateway", key),
                    "programmed, with an address, and routes are attached",
                )
            }));
        }
    }
    findings
}

/// Gateways whose class is nobody's.
fn without_class(installation: &Installation) -> Vec<Finding> {
    if !installation.is_cluster() || !installation.knows(Kind::GatewayClass, None) {
        return Vec::new();
    }
    let ours = &installation.class;
    let of_nobody = installation.snapshot.gateways.iter().filter(|(_, gateway)| {
        let class = &gateway.spec.gateway_class_name;
        class != ours && !installation.snapshot.gateway_classes.contains_key(&ObjectKey::new("", class))
    });
    of_nobody
        .map(|(key, gateway)| {
            let what = format!(
                "has the class {}, which does not exist: nobody serves it",
                gateway.spec.gateway_class_name
            );
            let fix = format!(
                r#"kubectl patch gateway {} -n {} --type=merge -p='{{"spec":{{"gatewayClassName":"{ours}"}}}}'"#,
                key.name, key.namespace
            );
            Finding::error(Place::new("Gateway", key), what, fix)
        })
        .collect()
}

fn judge(installation: &Installation, key: &ObjectKey, gateway: &Gateway) -> Vec<Finding> {
    let place = || Place::new("Gateway", key);
    let look = format!("kubectl describe gateway -n {} {}", key.namespace, key.name);
    let Some(status) = &gateway.status else {
        let fix = format!("look why the gateway does not: kubectl logs -A -l {GATEWAY_SELECTOR}");
        return vec![Finding::error(place(), "nobody has written its status", fix)];
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let mut findings = Vec::new();
    for name in ["Accepted", "Programmed"] {
        if let Some(why) = why_not(conditions, name) {
            findings.push(Finding::error(place(), why.to_string(), look.clone()));
        }
    }
    if status.addresses.as_deref().unwrap_or_default().is_empty() {
        let fix = format!(
            "wait for its Service's address (kubectl get services -A), or choose another --set gateway.serviceType; {look}"
        );
        findings.push(Finding::warning(place(), "has no address", fix));
    }
    for spec in &gateway.spec.listeners {
        match status.listeners.iter().flatten().find(|listener| listener.name == spec.name) {
            Some(listener) => {
                for name in ["Accepted", "ResolvedRefs", "Programmed"] {
                    if let Some(why) = why_not(&listener.conditions, name) {
                        let what = format!("listener {}: {why}", spec.name);
                        findings.push(Finding::error(place(), what, look.clone()));
                    }
                }
                findings.extend(attached(installation, key, spec, listener));
            }
            None => {
                let what = format!("listener {}: nobody has written its status", spec.name);
                findings.push(Finding::error(place(), what, look.clone()));
            }
        }
    }
    findings
}

/// Why a listener has no routes; nothing if it has some.
fn attached(
    installation: &Installation,
    key: &ObjectKey,
    spec: &GatewayListeners,
    status: &GatewayStatusListeners,
) -> Option<Finding> {
    if status.attached_routes != 0 {
        return None;
    }
    let place = Place::new("Gateway", key);
    let none = |why: &str| format!("listener {}: no HTTPRoute is attached: {why}", spec.name);
    if !installation.knows(Kind::HttpRoute, None) {
        return Some(Finding::warning(
            place,
            none("which there are is not known"),
            "kubectl get httproutes -A",
        ));
    }
    let (mut astray, mut strangers) = (None, None);
    for (route_key, route) in &installation.snapshot.http_routes {
        for parent in parents(route_key, route) {
            if parent.gateway == *key {
                strangers = strangers.or(Some(route_key));
            } else if parent.gateway.name == key.name
                && !installation.snapshot.gateways.contains_key(&parent.gateway)
            {
                astray = astray.or(Some(route_key));
            }
        }
    }
    let from = spec.allowed_routes.as_ref().and_then(|it| it.namespaces.as_ref()?.from.as_ref());
    let (why, fix) = match (astray, strangers) {
        (_, Some(route)) if route.namespace != key.namespace && matches!(from, None | Some(From::Same)) => (
            format!("HTTPRoute {route} names it, and it allows routes of its own namespace only"),
            "set allowedRoutes.namespaces.from: All on the listener".to_owned(),
        ),
        (_, Some(route)) => {
            (format!("HTTPRoute {route} names it"), "see what is said of that route".to_owned())
        }
        (Some(route), None) => (
            format!("HTTPRoute {route} names it in another namespace than this"),
            "set the namespace in the route's parentRefs, as is said of that route".to_owned(),
        ),
        (None, None) => (
            "none names it".to_owned(),
            format!(
                "name it in the routes' parentRefs: {{name: {}, namespace: {}}}",
                key.name, key.namespace
            ),
        ),
    };
    Some(Finding::warning(place, none(&why), fix))
}
