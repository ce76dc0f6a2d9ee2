//! Base models: what routes match on, and what the model maps list.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{HttpRoute, Kind, ObjectKey};
use forebay_routing::{
    BASE_MODEL_NAME_HEADER, CONTROLLER_NAME, GATEWAY_GROUP, HTTP_ROUTE, ListenerModels, POOL_GROUP,
    POOL_KIND, PolicyEffect, PolicyProblem, gateway_parents, key_source, listener_models, reason,
};
use gateway_api::experimental::httproutes::HttpRouteRulesMatchesHeadersType as MatchType;

use super::{
    finding::{Finding, Level, Object, or_ok},
    installation::Installation,
    nearest::typo,
};

/// Condition of a policy.
const ACCEPTED: &str = "Accepted";
const KEY_FIX: &str =
    "correct the entry or the name, and let the gateway read the Secret (chart value gateway.tlsSecrets)";

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    let kinds = [Kind::HttpRoute, Kind::Gateway, Kind::AgentgatewayPolicy, Kind::ConfigMap];
    if !installation.knows_all(kinds) {
        return Vec::new();
    }
    let snapshot = &installation.snapshot;
    let mut config_maps: BTreeMap<ObjectKey, String> = BTreeMap::new();
    let mut problems_of: BTreeSet<(ObjectKey, PolicyProblem)> = BTreeSet::new();
    let mut findings = Vec::new();
    let mut has_closed_map = false;
    for (key, gateway) in installation.gateways() {
        let listeners: Vec<ListenerModels> = gateway
            .spec
            .listeners
            .iter()
            .map(|listener| listener_models(snapshot, key, &listener.name))
            .collect();
        let problems = listeners.iter().flat_map(|models| &models.config_map_errors);
        config_maps.extend(problems.map(|(key, why)| (key.clone(), why.clone())));
        for (policy, of_policy) in listeners.iter().flat_map(|models| &models.policies) {
            problems_of.extend(of_policy.iter().map(|problem| (policy.clone(), problem.clone())));
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
    // Also policies of routes and backends.
    for (policy, gateways) in &installation.report.policies {
        let problems = gateways.values().flat_map(|report| &report.problems);
        // Keys cannot be judged without the Secrets, which are not read from a cluster.
        let judged =
            problems.filter(|it| it.effect != PolicyEffect::KeyNotAccepted || !installation.is_cluster());
        problems_of.extend(judged.map(|problem| (policy.clone(), problem.clone())));
    }
    let mut all: Vec<Finding> =
        problems_of.iter().map(|(policy, problem)| not_applied(policy, problem)).collect();
    let has_problem = |policy: &ObjectKey| problems_of.iter().any(|(of, _)| of == policy);
    all.extend(keys_by_status(installation).filter(|finding| !has_problem(&finding.object.key)));
    all.extend(config_maps.into_iter().map(|(key, why)| {
        let fix = "correct the field that is named (data.baseModel, data.adapters)";
        Finding::error(Object::new("ConfigMap", &key), why, fix).because(reason::INVALID)
    }));
    all.extend(untargeted(installation));
    all.extend(findings);
    if has_closed_map {
        return or_ok(all, || {
            Finding::ok(Object::all("Models"), "the maps list every base model that routes match on")
        });
    }
    all
}

/// A field of a policy that is not applied.
fn not_applied(policy: &ObjectKey, problem: &PolicyProblem) -> Finding {
    let (level, fix) = match problem.effect {
        PolicyEffect::Closes => (
            Level::Error,
            "protect the target in another way, then remove the field from the policy: requests are rejected until then",
        ),
        PolicyEffect::NotSet => (
            Level::Error,
            r#"set phase: PreRouting, and write the value as {"NAME": "BASE", …}[json(request.body).model]"#,
        ),
        PolicyEffect::KeyNotAccepted => (Level::Error, KEY_FIX),
        PolicyEffect::Ignored => (Level::Warning, "remove the field from the policy, or do not rely on it"),
    };
    let object = Object::new("AgentgatewayPolicy", policy);
    let finding = Finding::error(object, problem.message.clone(), fix).because(reason::INVALID);
    Finding { level, ..finding }
}

/// What the gateway reports of policies with keys.
fn keys_by_status(installation: &Installation) -> impl Iterator<Item = Finding> {
    let policies = installation.snapshot.agentgateway_policies.iter();
    let with_keys =
        policies.filter(|(key, policy)| installation.is_cluster() && key_source(key, policy).is_some());
    with_keys.filter_map(|(key, policy)| {
        let ancestors = policy.status.iter().flat_map(|status| &status.ancestors);
        let ours = ancestors.filter(|ancestor| ancestor.controller_name == CONTROLLER_NAME);
        let mut conditions = ours.flat_map(|ancestor| &ancestor.conditions);
        let bad = conditions.find(|it| it.type_ == ACCEPTED && it.status == "False")?;
        let object = Object::new("AgentgatewayPolicy", key);
        Some(Finding::error(object, bad.message.clone(), KEY_FIX).because(bad.reason.clone()))
    })
}

/// Policies that target an object which is not in their namespace.
fn untargeted(installation: &Installation) -> Vec<Finding> {
    let snapshot = &installation.snapshot;
    let mut findings = Vec::new();
    for (key, policy) in &snapshot.agentgateway_policies {
        for target in &policy.spec.target_refs {
            let named = ObjectKey::new(&key.namespace, &target.name);
            let is_known = installation.knows(Kind::InferencePool, None);
            let exists = match (target.group.as_str(), target.kind.as_str()) {
                (GATEWAY_GROUP, "Gateway") => snapshot.gateways.contains_key(&named),
                (GATEWAY_GROUP, HTTP_ROUTE) => snapshot.http_routes.contains_key(&named),
                (POOL_GROUP, POOL_KIND) => snapshot.inference_pools.contains_key(&named) || !is_known,
                // Services are known only where routes refer to them.
                _ => true,
            };
            if !exists {
                let message =
                    format!("targets {} {}, which is not in its namespace", target.kind, target.name);
                let fix =
                    format!("apply the policy in the namespace of the {}, or correct the name", target.kind);
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
