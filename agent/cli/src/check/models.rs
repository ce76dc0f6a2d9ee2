//! Base models: what routes match on, and what the model maps list.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{HttpRoute, Kind, ObjectKey};
use forebay_routing::{BASE_MODEL_NAME_HEADER, ListenerModels, gateway_parents, listener_models, reason};
use gateway_api::experimental::httproutes::HttpRouteRulesMatchesHeadersType as MatchType;

use super::{
    finding::{Finding, Object, or_ok},
    installation::Installation,
    nearest::typo,
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    let kinds = [Kind::HttpRoute, Kind::Gateway, Kind::AgentgatewayPolicy, Kind::ConfigMap];
    if !installation.knows_all(kinds) {
        return Vec::new();
    }
    let snapshot = &installation.snapshot;
    let mut errors: BTreeMap<Object, String> = BTreeMap::new();
    let mut findings = Vec::new();
    let mut has_closed_map = false;
    for (key, gateway) in installation.gateways() {
        let listeners: Vec<ListenerModels> = gateway
            .spec
            .listeners
            .iter()
            .map(|listener| listener_models(snapshot, key, &listener.name))
            .collect();
        for models in &listeners {
            errors.extend(errors_of(models));
        }
        // Without a policy, every model name is its own base model.
        if listeners.is_empty() || !listeners.iter().all(|models| models.map.is_closed()) {
            continue;
        }
        has_closed_map = true;
        for (route_key, route) in &snapshot.http_routes {
            if gateway_parents(route_key, route).any(|(_, gateway, _)| gateway == *key) {
                let unmapped = matched(route).into_iter().filter(|value| !maps(&listeners, value));
                findings.extend(unmapped.map(|value| unmapped_model(route_key, value, &listeners)));
            }
        }
    }
    // Also policies of routes and pools.
    for (key, gateways) in &installation.report.policies {
        if let Some(status) = gateways.values().find(|status| !status.is_true) {
            let object = Object::new("AgentgatewayPolicy", key);
            errors.entry(object).or_insert_with(|| status.message.clone());
        }
    }
    let mut all: Vec<Finding> = errors
        .into_iter()
        .map(|(object, why)| {
            let fix = match object.kind.as_str() {
                "ConfigMap" => "correct the field that is named (data.baseModel, data.adapters)",
                _ if why.contains("is not supported") => {
                    "remove the field from the policy; if it restricts access, protect the target in another way first"
                }
                _ => r#"set phase: PreRouting, and write the value as {"NAME": "BASE", …}[json(request.body).model]"#,
            };
            Finding::error(object, why, fix).because(reason::INVALID)
        })
        .collect();
    all.extend(untargeted(installation));
    all.extend(findings);
    if has_closed_map {
        return or_ok(all, || {
            Finding::ok(Object::all("Models"), "the maps list every base model that routes match on")
        });
    }
    all
}

/// The first error of each policy and ConfigMap.
fn errors_of(models: &ListenerModels) -> impl Iterator<Item = (Object, String)> {
    let policies = models
        .policies
        .iter()
        .filter_map(|(key, errors)| Some((Object::new("AgentgatewayPolicy", key), errors.first()?.clone())));
    let config_maps =
        models.config_map_errors.iter().map(|(key, why)| (Object::new("ConfigMap", key), why.clone()));
    policies.chain(config_maps)
}

/// Policies that target a Gateway which is not in their namespace.
fn untargeted(installation: &Installation) -> Vec<Finding> {
    let snapshot = &installation.snapshot;
    let mut findings = Vec::new();
    for (key, policy) in &snapshot.agentgateway_policies {
        for target in policy.spec.target_refs.iter().filter(|it| it.kind == "Gateway") {
            if !snapshot.gateways.contains_key(&ObjectKey::new(&key.namespace, &target.name)) {
                let message = format!("targets Gateway {}, which is not in its namespace", target.name);
                let fix = "apply the policy in the Gateway's namespace";
                findings.push(Finding::warning(Object::new("AgentgatewayPolicy", key), message, fix));
            }
        }
    }
    findings
}

/// Base models that the route's rules match exactly.
fn matched(route: &HttpRoute) -> BTreeSet<&str> {
    let rules = route.spec.rules.iter().flatten();
    let matches = rules.flat_map(|rule| rule.matches.iter().flatten());
    let headers = matches.flat_map(|it| it.headers.iter().flatten());
    headers
        .filter(|header| header.name.eq_ignore_ascii_case(BASE_MODEL_NAME_HEADER.as_str()))
        .filter(|header| !matches!(header.r#type, Some(MatchType::RegularExpression)))
        .map(|header| header.value.as_str())
        .collect()
}

fn maps(listeners: &[ListenerModels], base: &str) -> bool {
    listeners.iter().any(|models| models.map.bases().any(|(known, _)| known == base))
}

fn unmapped_model(route: &ObjectKey, value: &str, listeners: &[ListenerModels]) -> Finding {
    let message =
        format!("matches base model {value:?}, which no model map lists (names are case-sensitive)");
    let bases: BTreeMap<&str, &ObjectKey> = listeners.iter().flat_map(|models| models.map.bases()).collect();
    let policy = listeners.iter().flat_map(|models| &models.policies).map(|(key, _)| key).next();
    let add = match policy {
        Some(policy) => format!("add {value:?} to the map of AgentgatewayPolicy {policy}"),
        None => format!("add {value:?} to the map"),
    };
    let fix = match typo(value, bases.keys().copied()) {
        Some(meant) => {
            let source = bases.get(meant).map(|key| format!(" (of {key})")).unwrap_or_default();
            format!("did you mean {meant:?}{source}? Correct the route, or {add}")
        }
        None => add,
    };
    Finding::error(Object::new("HTTPRoute", route), message, fix)
}
