//! HTTPRoutes that name a Gateway of the class or an InferencePool.

use forebay_resources::{HttpRoute, Kind, ObjectKey};
use forebay_routing::{CONTROLLER_NAME, ParentReport, gateway_parents, reason};
use gateway_api::experimental::httproutes::{HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesMatches};

use super::{
    advice::Advice,
    class::gateway_log,
    condition::{BadCondition, computed, written},
    finding::{Finding, Object, or_ok},
    gateways::allow_namespace,
    installation::Installation,
    nearest::nearest,
    references::{backends, patch_namespace},
};

/// An entry of `spec.parentRefs` that names a Gateway.
struct Parent<'a> {
    index: usize,
    gateway: ObjectKey,
    spec: &'a HttpRouteParentRefs,
}

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows_all([Kind::HttpRoute, Kind::Gateway]) {
        return Vec::new();
    }
    let routes = installation.snapshot.http_routes.iter().filter(|(key, route)| {
        backends(key, route).any(|backend| backend.is_pool())
            || gateway_parents(key, route).any(|(_, gateway, _)| installation.serves(&gateway))
    });
    let mut count = 0;
    let mut findings = Vec::new();
    for (key, route) in routes {
        count += 1;
        let missing = missing_pools(installation, key, route);
        let has_missing_pools = !missing.is_empty();
        findings.extend(missing);
        if route.spec.parent_refs.iter().flatten().next().is_none() {
            let fix = "name the Gateway in spec.parentRefs, with its namespace";
            findings.push(Finding::error(Object::new("HTTPRoute", key), "names no Gateway", fix));
        }
        for (index, gateway, spec) in gateway_parents(key, route) {
            let parent = Parent { index, gateway, spec };
            findings.extend(at_parent(installation, (key, route), &parent, has_missing_pools));
        }
    }
    or_ok(findings, || {
        let message = match (count, installation.is_cluster()) {
            (0, _) => "none refers to an InferencePool or a Gateway of the class".to_owned(),
            (count, true) => format!("{count} accepted, their references resolved"),
            (count, false) => format!("{count} are valid, and refer to Gateways and backends that exist"),
        };
        Finding::ok(Object::all("HTTPRoutes"), message)
    })
}

fn missing_pools(installation: &Installation, key: &ObjectKey, route: &HttpRoute) -> Vec<Finding> {
    if !installation.knows(Kind::InferencePool, None) {
        return Vec::new();
    }
    let pools = &installation.snapshot.inference_pools;
    let missing = backends(key, route).filter(|it| it.is_pool() && !pools.contains_key(&it.key));
    missing
        .map(|backend| {
            let names = pools.keys().map(ToString::to_string).collect::<Vec<_>>();
            let nearest = nearest(&backend.key.to_string(), names.iter().map(String::as_str));
            let fix = match nearest {
                Some(name) => format!("apply the pool, or correct the name in backendRefs: {name}?"),
                None => "apply the pool; no InferencePool exists".to_owned(),
            };
            let message = format!("refers to InferencePool {}, which does not exist", backend.key);
            Finding::error(Object::new("HTTPRoute", key), message, fix).because(reason::BACKEND_NOT_FOUND)
        })
        .collect()
}

fn at_parent(
    installation: &Installation,
    (key, route): (&ObjectKey, &HttpRoute),
    parent: &Parent<'_>,
    has_missing_pools: bool,
) -> Vec<Finding> {
    if !installation.snapshot.gateways.contains_key(&parent.gateway) {
        return vec![missing_gateway(installation, key, route, parent)];
    }
    // Another controller writes the status for a Gateway of another class.
    if !installation.serves(&parent.gateway) {
        return Vec::new();
    }
    let gateway = &parent.gateway;
    let finding = |why: BadCondition| {
        let message = format!("at Gateway {gateway}: {why}");
        let fix = fix(&why.reason, key, gateway);
        Finding::error(Object::new("HTTPRoute", key), message, fix).because(why.reason)
    };
    let bad = computed_conditions(installation, key, parent);
    if !bad.is_empty() {
        // These have a finding with the object's name.
        let has_own_finding = |why: &BadCondition| {
            why.reason == reason::REF_NOT_PERMITTED
                || (why.reason == reason::BACKEND_NOT_FOUND && has_missing_pools)
        };
        return bad.into_iter().filter(|why| !has_own_finding(why)).map(finding).collect();
    }
    if !installation.is_cluster() {
        return Vec::new();
    }
    let statuses = route.status.iter().flat_map(|status| &status.parents);
    let mut ours = statuses.filter(|status| {
        let it = &status.parent_ref;
        status.controller_name == CONTROLLER_NAME
            && ObjectKey::new(it.namespace.as_ref().unwrap_or(&key.namespace), &it.name) == *gateway
            && it.section_name == parent.spec.section_name
            && it.port == parent.spec.port
    });
    let Some(status) = ours.next() else {
        let message = format!("has no status of {CONTROLLER_NAME} for Gateway {gateway} yet");
        return vec![Finding::error(Object::new("HTTPRoute", key), message, gateway_log(installation))];
    };
    let names = ["Accepted", "ResolvedRefs"];
    names.iter().filter_map(|name| written(&status.conditions, name)).map(finding).collect()
}

/// Bad conditions as routing computes them. Empty where the objects that they depend on are not known.
fn computed_conditions(
    installation: &Installation,
    key: &ObjectKey,
    parent: &Parent<'_>,
) -> Vec<BadCondition> {
    let reports = installation.report.routes.get(key).into_iter().flatten();
    let is_this = |report: &&ParentReport| report.gateway == parent.gateway && report.parent == *parent.spec;
    let Some(report) = reports.into_iter().find(is_this) else { return Vec::new() };
    let mut bad = Vec::new();
    if installation.knows(Kind::Namespace, None) {
        bad.extend(computed(&report.accepted, "Accepted"));
    }
    if installation.knows_backends() {
        bad.extend(computed(&report.resolved_refs, "ResolvedRefs"));
    }
    bad.extend(report.partially_invalid.iter().map(|status| BadCondition::bad("PartiallyInvalid", status)));
    bad
}

fn fix(reason: &str, route: &ObjectKey, gateway: &ObjectKey) -> String {
    match reason {
        reason::NOT_ALLOWED_BY_LISTENERS => allow_namespace(&route.namespace, gateway),
        reason::NO_MATCHING_PARENT => {
            format!(
                "name a listener and port of Gateway {gateway} in parentRefs, or remove sectionName and port"
            )
        }
        reason::NO_MATCHING_LISTENER_HOSTNAME => {
            "use hostnames that match the listener's hostname, or none".to_owned()
        }
        reason::REF_NOT_PERMITTED => "apply a ReferenceGrant in the backend's namespace".to_owned(),
        reason::BACKEND_NOT_FOUND => {
            "apply the backend, or correct its name or port in backendRefs".to_owned()
        }
        reason::INVALID_KIND => "use a Service or an InferencePool as backend".to_owned(),
        _ => "change what the message names".to_owned(),
    }
}

fn missing_gateway(
    installation: &Installation,
    key: &ObjectKey,
    route: &HttpRoute,
    parent: &Parent<'_>,
) -> Finding {
    let object = Object::new("HTTPRoute", key);
    let gateways = &installation.snapshot.gateways;
    let missing = format!("names Gateway {}, which does not exist", parent.gateway);
    let same_name: Vec<&ObjectKey> =
        gateways.keys().filter(|gateway| gateway.name == parent.gateway.name).collect();
    match same_name.as_slice() {
        [] => {}
        [gateway] => {
            let message = format!("{missing}; {gateway} does");
            return Finding::error(
                object,
                message,
                attach(installation, (key, route), parent.index, gateway),
            );
        }
        several => {
            let names = several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let fix = "set the namespace of the one that is meant in the route's parentRefs";
            return Finding::error(object, format!("{missing}; Gateways of that name: {names}"), fix);
        }
    }
    let names: Vec<String> = gateways.keys().map(ToString::to_string).collect();
    let fix = match nearest(&parent.gateway.to_string(), names.iter().map(String::as_str)) {
        Some(name) => format!("apply the Gateway, or correct the name in parentRefs: {name}?"),
        None => "apply the Gateway; no Gateway exists".to_owned(),
    };
    Finding::error(object, missing, fix)
}

/// Attaches a route to the only Gateway of that name: a command, unless another route there matches the same requests,
/// which it could lose to this one (Gateway API: the older route wins).
fn attach(
    installation: &Installation,
    (key, route): (&ObjectKey, &HttpRoute),
    index: usize,
    gateway: &ObjectKey,
) -> Advice {
    let attached = installation.snapshot.http_routes.iter().filter(|(other, object)| {
        *other != key && gateway_parents(other, object).any(|(_, parent, _)| parent == *gateway)
    });
    let mut rivals = attached.filter(|(_, other)| matches_same(route, other));
    if let Some((rival, _)) = rivals.next() {
        let fix = format!(
            "HTTPRoute {rival} at Gateway {gateway} matches the same requests: decide which one shall serve them, then set \
             namespace: {} in the route's parentRefs",
            gateway.namespace
        );
        return fix.into();
    }
    patch_namespace(key, index, gateway)
}

/// Whether two routes have a match in common. Without matches, a rule matches everything.
fn matches_same(one: &HttpRoute, other: &HttpRoute) -> bool {
    let rules = |route: &HttpRoute| route.spec.rules.clone().unwrap_or_default();
    let matches = |route: &HttpRoute| -> Vec<_> {
        let of_rule = |rule: HttpRouteRules| match rule.matches {
            Some(matches) if !matches.is_empty() => matches,
            _ => vec![HttpRouteRulesMatches::default()],
        };
        rules(route).into_iter().flat_map(of_rule).collect()
    };
    let others = matches(other);
    matches(one).iter().any(|it| others.contains(it))
}
