//! HTTPRoutes to InferencePools: whether they are where they want to be.

use forebay_resources::{HttpRoute, Kind, ObjectKey};

use super::{
    class::CONTROLLER,
    condition::why_not,
    finding::{Finding, Place, or_ok},
    installation::{GATEWAY_SELECTOR, Installation},
    nearest::nearest,
    references::{Parent, backends, parents, patch_namespace},
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows_all([Kind::HttpRoute, Kind::Gateway]) {
        return Vec::new();
    }
    let routes = installation.snapshot.http_routes.iter().filter(|(key, route)| {
        let serves = |parent: Parent<'_>| is_served(installation, &parent.gateway);
        backends(key, route).any(|backend| backend.is_pool()) || parents(key, route).any(serves)
    });
    let mut count = 0;
    let mut findings = Vec::new();
    for (key, route) in routes {
        count += 1;
        findings.extend(pools(installation, key, route));
        if route.spec.parent_refs.iter().flatten().next().is_none() {
            let fix = "name the Gateway in spec.parentRefs, with its namespace";
            findings.push(Finding::error(Place::new("HTTPRoute", key), "names no Gateway", fix));
        }
        for parent in parents(key, route) {
            findings.extend(judge(installation, key, route, &parent));
        }
    }
    or_ok(findings, || {
        let what = match (count, installation.is_cluster()) {
            (0, _) => "none refers to an InferencePool or a Gateway of the class".to_owned(),
            (count, true) => format!("{count} accepted, their references resolved"),
            (count, false) => format!("{count} refer to Gateways and pools that exist"),
        };
        Finding::ok(Place::all("HTTPRoutes"), what)
    })
}

fn is_served(installation: &Installation, gateway: &ObjectKey) -> bool {
    let gateway = installation.snapshot.gateways.get(gateway);
    gateway.is_some_and(|gateway| gateway.spec.gateway_class_name == installation.class)
}

fn pools(installation: &Installation, key: &ObjectKey, route: &HttpRoute) -> Vec<Finding> {
    if !installation.knows(Kind::InferencePool, None) {
        return Vec::new();
    }
    let pools = &installation.snapshot.inference_pools;
    let missing = backends(key, route).filter(|it| it.is_pool() && !pools.contains_key(&it.key));
    missing
        .map(|backend| {
            let names = pools.keys().map(ToString::to_string).collect::<Vec<_>>();
            let there = nearest(&backend.key.to_string(), names.iter().map(String::as_str));
            let fix = match there {
                Some(name) => format!("apply it, or name the one that is meant in backendRefs: {name}?"),
                None => "apply it; there is no InferencePool at all".to_owned(),
            };
            let what = format!("refers to InferencePool {}, which does not exist", backend.key);
            Finding::error(Place::new("HTTPRoute", key), what, fix)
        })
        .collect()
}

fn judge(
    installation: &Installation,
    key: &ObjectKey,
    route: &HttpRoute,
    parent: &Parent<'_>,
) -> Vec<Finding> {
    let gateway = &parent.gateway;
    if !installation.snapshot.gateways.contains_key(gateway) {
        return vec![astray(installation, key, parent)];
    }
    // Only in a cluster somebody writes statuses, and for Gateways of other classes somebody else.
    if !installation.is_cluster() || !is_served(installation, gateway) {
        return Vec::new();
    }
    let place = || Place::new("HTTPRoute", key);
    let statuses = route.status.iter().flat_map(|status| &status.parents);
    let mut ours = statuses.filter(|status| {
        let it = &status.parent_ref;
        status.controller_name == CONTROLLER
            && ObjectKey::new(it.namespace.as_ref().unwrap_or(&key.namespace), &it.name) == *gateway
            && it.section_name == parent.spec.section_name
            && it.port == parent.spec.port
    });
    let Some(status) = ours.next() else {
        let what = format!("the gateway has said nothing of it at Gateway {gateway}");
        let fix = format!("look why: kubectl logs -A -l {GATEWAY_SELECTOR}");
        return vec![Finding::error(place(), what, fix)];
    };
    let failing = ["Accepted", "ResolvedRefs"].iter().filter_map(|name| why_not(&status.conditions, name));
    failing
        .map(|why| {
            Finding::error(place(), format!("at Gateway {gateway}: {why}"), fix(why.reason(), gateway))
        })
        .collect()
}

fn fix(reason: &str, gateway: &ObjectKey) -> String {
    match reason {
        "NotAllowedByListeners" => {
            format!("set allowedRoutes.namespaces.from: All on the listener of Gateway {gateway}")
        }
        "NoMatchingParent" => format!("name a listener and port that Gateway {gateway} has, or none"),
        "NoMatchingListenerHostname" => {
            "give the route a hostname that the listener's takes in, or none".to_owned()
        }
        "RefNotPermitted" => "apply the ReferenceGrant that is given here".to_owned(),
        "BackendNotFound" => "apply the backend, or correct its name or port in backendRefs".to_owned(),
        _ => "change what the reason names".to_owned(),
    }
}

/// The Gateway is not where the route says.
fn astray(installation: &Installation, key: &ObjectKey, parent: &Parent<'_>) -> Finding {
    let place = Place::new("HTTPRoute", key);
    let gateways = &installation.snapshot.gateways;
    let named = format!("names Gateway {}, which does not exist", parent.gateway);
    let mut elsewhere: Vec<&ObjectKey> =
        gateways.keys().filter(|gateway| gateway.name == parent.gateway.name).collect();
    // If there are several, one that is served is meant.
    elsewhere.sort_by_key(|gateway| !is_served(installation, gateway));
    if let Some(gateway) = elsewhere.first() {
        let what = format!("{named}; there is {gateway}");
        return Finding::error(place, what, patch_namespace(key, parent, &gateway.namespace));
    }
    let names: Vec<String> = gateways.keys().map(ToString::to_string).collect();
    let fix = match nearest(&parent.gateway.to_string(), names.iter().map(String::as_str)) {
        Some(name) => format!("apply it, or name the one that is meant in parentRefs: {name}?"),
        None => "apply it; there is no Gateway at all".to_owned(),
    };
    Finding::error(place, named, fix)
}
