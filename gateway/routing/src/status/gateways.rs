//! The statuses of GatewayClasses and Gateways.

use forebay_resources::{GatewayClass, Service};
use serde_json::{Value, json};

use super::conditions::{Condition, merge};
use crate::compile::ListenerReport;
use crate::condition::{ConditionStatus, reason};
use crate::names::CONTROLLER_NAME;

/// `status.supportedFeatures`: names of the conformance suite, sorted.
const SUPPORTED_FEATURES: &[&str] = &[
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
];

const INSECURE: &str = "InsecureFrontendValidationMode";
const GATEWAY_CONDITIONS: [&str; 3] = ["Accepted", INSECURE, "Programmed"];
const LISTENER_CONDITIONS: [&str; 4] = ["Accepted", "Conflicted", "Programmed", "ResolvedRefs"];

/// Status of a GatewayClass; `None` for classes of other controllers.
pub fn class_status(class: &GatewayClass, current: &Value) -> Option<Value> {
    if class.spec.controller_name != CONTROLLER_NAME {
        return None;
    }
    let accepted = match &class.spec.parameters_ref {
        None => ConditionStatus::met("Accepted"),
        Some(_) => ConditionStatus::unmet("InvalidParameters", "parametersRef is not supported"),
    };
    let conditions = [Condition { kind: "Accepted", state: &accepted }];
    let features: Vec<Value> = SUPPORTED_FEATURES.iter().map(|name| json!({ "name": name })).collect();
    Some(json!({
        "conditions": merge(current.get("conditions"), class.metadata.generation, &["Accepted"], &conditions),
        "supportedFeatures": features,
    }))
}

/// Service and open ports of a Gateway.
pub struct Reach<'a> {
    /// The Service with the Gateway's addresses; `None` before it exists.
    pub service: Option<&'a Service>,
    /// Whether a pod of the gateway is ready behind the Service.
    pub has_endpoints: bool,
    /// Why the Gateway has no Service.
    pub refused: Option<&'a str>,
    /// Whether this replica has opened the listener's port.
    pub is_open: &'a dyn Fn(&ListenerReport) -> bool,
}

/// Status of a Gateway; `listeners` in the order of `spec.listeners`.
pub fn gateway_status(
    generation: Option<i64>,
    listeners: &[ListenerReport],
    reach: &Reach<'_>,
    current: &Value,
) -> Value {
    let assigned = reach.service.map(addresses).unwrap_or_default();
    let is_assigned = !assigned.is_empty();
    // An address is announced when a gateway is ready behind it. Clients may know it already: it is not withdrawn while
    // the gateway's pods restart.
    let known = current.get("addresses").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let addresses: Vec<Value> =
        assigned.into_iter().filter(|address| reach.has_endpoints || known.contains(address)).collect();
    let is_valid =
        |it: &ListenerReport| it.accepted.is_true && it.resolved_refs.is_true && !it.conflicted.is_true;
    let accepted = match listeners.iter().filter(|it| !is_valid(it)).count() {
        0 => ConditionStatus::met(reason::ACCEPTED),
        // Gateway API: Accepted is true if at least one listener is valid.
        bad if bad < listeners.len() => ConditionStatus {
            is_true: true,
            reason: "ListenersNotValid",
            message: "not all listeners are served; see their conditions".into(),
        },
        _ => ConditionStatus::unmet("ListenersNotValid", "no listener is served; see their conditions"),
    };
    let programmed = if !accepted.is_true {
        ConditionStatus::unmet("Invalid", "the Gateway is not accepted")
    } else if let Some(reason) = reach.refused {
        ConditionStatus::unmet("NoResources", reason)
    } else if !is_assigned {
        ConditionStatus::unmet("AddressNotAssigned", "its Service has no address yet")
    } else if !reach.has_endpoints {
        ConditionStatus::unmet("Pending", "no pod of the gateway is ready behind its Service")
    } else if listeners.iter().any(|it| it.port.is_some() && !(reach.is_open)(it)) {
        ConditionStatus::unmet("Pending", "the ports of its listeners are being opened")
    } else {
        ConditionStatus::met("Programmed")
    };
    let insecure = ConditionStatus {
        is_true: true,
        reason: reason::CONFIGURATION_CHANGED,
        message: "AllowInsecureFallback: clients without a valid certificate are served".into(),
    };
    let mut conditions = vec![
        Condition { kind: "Accepted", state: &accepted },
        Condition { kind: "Programmed", state: &programmed },
    ];
    if listeners.iter().any(|listener| listener.allows_any_client) {
        conditions.push(Condition { kind: INSECURE, state: &insecure });
    }
    let listeners: Vec<Value> = listeners
        .iter()
        .map(|listener| listener_status(generation, listener, reach, &programmed, current))
        .collect();
    json!({
        "addresses": addresses,
        "conditions": merge(current.get("conditions"), generation, &GATEWAY_CONDITIONS, &conditions),
        "listeners": listeners,
    })
}

fn listener_status(
    generation: Option<i64>,
    listener: &ListenerReport,
    reach: &Reach<'_>,
    gateway_programmed: &ConditionStatus,
    current: &Value,
) -> Value {
    let existing = current.get("listeners").and_then(Value::as_array).into_iter().flatten();
    let existing = existing.clone().find(|it| it.get("name").is_some_and(|name| *name == listener.name));
    let programmed = if listener.port.is_none() {
        ConditionStatus::unmet("Invalid", "the listener is not served; see its other conditions")
    } else if (reach.is_open)(listener) {
        ConditionStatus::met("Programmed")
    } else if gateway_programmed.is_true {
        ConditionStatus::unmet("Pending", "its port is being opened")
    } else {
        gateway_programmed.clone()
    };
    let kinds: Vec<Value> = listener
        .supported_kinds
        .iter()
        .map(|kind| json!({ "group": "gateway.networking.k8s.io", "kind": kind }))
        .collect();
    json!({
        "name": listener.name,
        "attachedRoutes": listener.attached_routes,
        "supportedKinds": kinds,
        "conditions": merge(existing.and_then(|it| it.get("conditions")), generation, &LISTENER_CONDITIONS, &[
            Condition { kind: "Accepted", state: &listener.accepted },
            Condition { kind: "Conflicted", state: &listener.conflicted },
            Condition { kind: "Programmed", state: &programmed },
            Condition { kind: "ResolvedRefs", state: &listener.resolved_refs },
        ]),
    })
}

/// Addresses of the load balancer, or else the cluster IP of the Service.
fn addresses(service: &Service) -> Vec<Value> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let outside: Vec<Value> = ingress
        .filter_map(|it| match (&it.ip, &it.hostname) {
            (Some(ip), _) => Some(json!({ "type": "IPAddress", "value": ip })),
            (None, Some(name)) => Some(json!({ "type": "Hostname", "value": name })),
            (None, None) => None,
        })
        .collect();
    if !outside.is_empty() {
        return outside;
    }
    let own = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    own.filter(|ip| !ip.is_empty() && *ip != "None")
        .map(|ip| json!({ "type": "IPAddress", "value": ip }))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announces_an_address_only_with_a_ready_gateway_behind_it() {
        let service: Service =
            serde_json::from_value(json!({ "spec": { "clusterIP": "10.96.0.7" } })).unwrap();
        let is_open = |_: &ListenerReport| true;
        let status = |has_endpoints: bool, service: Option<&Service>, known: &Value| {
            let reach = Reach { service, has_endpoints, refused: None, is_open: &is_open };
            let status = gateway_status(Some(1), &[], &reach, &json!({ "addresses": known }));
            let programmed = status["conditions"][1].clone();
            assert_eq!(programmed["type"], "Programmed");
            let addresses = status["addresses"].as_array().unwrap().len();
            (addresses, programmed["status"] == "True", programmed["reason"].as_str().unwrap().to_owned())
        };
        let address = |value: &str| json!([{ "type": "IPAddress", "value": value }]);
        let (same, of_an_older_service) = (address("10.96.0.7"), address("10.96.0.1"));
        for (has_endpoints, service, known, expected) in [
            (true, Some(&service), &json!([]), (1, true, "Programmed")),
            (false, Some(&service), &json!([]), (0, false, "Pending")),
            (false, Some(&service), &same, (1, false, "Pending")),
            (false, Some(&service), &of_an_older_service, (0, false, "Pending")),
            (false, None, &of_an_older_service, (0, false, "AddressNotAssigned")),
        ] {
            let (count, programmed, reason) = expected;
            assert_eq!(
                status(has_endpoints, service, known),
                (count, programmed, reason.to_owned()),
                "{known}"
            );
        }
    }
}
