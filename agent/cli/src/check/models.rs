//! Names of base models: what routes match, and what the maps give.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{
    AgentgatewayPolicy, HttpRoute, Kind, ObjectKey, TrafficPhase, base_model, parse_model_map,
};
use gateway_api::experimental::httproutes::HttpRouteRulesMatchesHeadersType as MatchType;

use super::{
    finding::{Finding, Place, or_ok},
    installation::Installation,
    nearest::typo,
    references::{GATEWAY_GROUP, parents},
};

const HEADER: &str = "X-Gateway-Base-Model-Name";

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    let kinds = [Kind::HttpRoute, Kind::Gateway, Kind::AgentgatewayPolicy, Kind::ConfigMap];
    if !installation.knows_all(kinds) {
        return Vec::new();
    }
    let snapshot = &installation.snapshot;
    let mut findings = unreadable(installation);
    let mut is_mapped = false;
    for (gateway, _) in installation.gateways() {
        let map = Map::of(installation, gateway);
        // Where no policy says which names there are, each is its own base.
        let Some(policy) = map.closed_by else { continue };
        is_mapped = true;
        for (key, route) in &snapshot.http_routes {
            if !parents(key, route).any(|parent| parent.gateway == *gateway) {
                continue;
            }
            for value in matched(route) {
                if !map.bases.contains_key(value) {
                    findings.push(unmapped(key, value, policy, &map));
                }
            }
        }
    }
    if is_mapped {
        findings = or_ok(findings, || {
            Finding::ok(Place::all("Models"), "the maps give every base model that routes match")
        });
    }
    findings
}

/// What the policies of a Gateway and the ConfigMaps say.
struct Map<'a> {
    bases: BTreeMap<String, &'a ObjectKey>,
    /// The policy by which no other name has a base.
    closed_by: Option<&'a ObjectKey>,
}

impl<'a> Map<'a> {
    fn of(installation: &'a Installation, gateway: &ObjectKey) -> Self {
        let snapshot = &installation.snapshot;
        let mut map = Self { bases: BTreeMap::new(), closed_by: None };
        for (key, policy) in &snapshot.agentgateway_policies {
            let Some(listener) = target(key, policy, gateway) else { continue };
            for expression in expressions(policy) {
                // For one listener alone, the others have still any name.
                map.closed_by = map.closed_by.or(Some(key).filter(|_| listener.is_none()));
                let bases = parse_model_map(expression).unwrap_or_default();
                map.bases.extend(bases.into_values().map(|base| (base, key)));
            }
        }
        for (key, config_map) in &snapshot.config_maps {
            if let Some(Ok(base)) = base_model(config_map) {
                map.bases.insert(base.name, key);
            }
        }
        map
    }
}

/// Whether the policy is for the Gateway, and then for which listener alone.
fn target<'a>(
    key: &ObjectKey,
    policy: &'a AgentgatewayPolicy,
    gateway: &ObjectKey,
) -> Option<Option<&'a str>> {
    let mut targets = policy.spec.target_refs.iter().filter(|it| {
        key.namespace == gateway.namespace
            && it.group == GATEWAY_GROUP
            && it.kind == "Gateway"
            && it.name == gateway.name
    });
    targets.next().map(|it| it.section_name.as_deref())
}

/// Those that give the base model's name, before a route is chosen.
fn expressions(policy: &AgentgatewayPolicy) -> impl Iterator<Item = &str> {
    let traffic = policy.spec.traffic.iter().filter(|traffic| traffic.phase == TrafficPhase::PreRouting);
    let requests = traffic.filter_map(|traffic| traffic.transformation.as_ref()?.request.as_ref());
    let sets = requests.flat_map(|request| &request.set);
    sets.filter(|set| set.name.eq_ignore_ascii_case(HEADER)).map(|set| set.value.as_str())
}

/// Maps that cannot be read, and policies for Gateways that are not in their namespace.
fn unreadable(installation: &Installation) -> Vec<Finding> {
    let snapshot = &installation.snapshot;
    let mut findings = Vec::new();
    for (key, policy) in &snapshot.agentgateway_policies {
        let place = || Place::new("AgentgatewayPolicy", key);
        for why in expressions(policy).filter_map(|expression| parse_model_map(expression).err()) {
            let fix = r#"write it as {"NAME": "BASE", …}[json(request.body).model]"#;
            findings.push(Finding::error(place(), format!("{HEADER} is not set: {why}"), fix));
        }
        for target in policy.spec.target_refs.iter().filter(|it| it.kind == "Gateway") {
            if !snapshot.gateways.contains_key(&ObjectKey::new(&key.namespace, &target.name)) {
                let what = format!("targets Gateway {}, which is not in its namespace", target.name);
                let fix = "apply the policy in the Gateway's namespace";
                findings.push(Finding::warning(place(), what, fix));
            }
        }
    }
    for (key, config_map) in &snapshot.config_maps {
        let why = match base_model(config_map) {
            Some(Err(why)) => Some(why),
            Some(Ok(base)) => base.adapters.err(),
            None => None,
        };
        if let Some(why) = why {
            findings.push(Finding::error(
                Place::new("ConfigMap", key),
                why,
                "write it as the label's readers expect",
            ));
        }
    }
    findings
}

/// The base models that the route's rules match exactly.
fn matched(route: &HttpRoute) -> BTreeSet<&str> {
    let rules = route.spec.rules.iter().flatten();
    let matches = rules.flat_map(|rule| rule.matches.iter().flatten());
    let headers = matches.flat_map(|it| it.headers.iter().flatten());
    headers
        .filter(|header| header.name.eq_ignore_ascii_case(HEADER))
        .filter(|header| !matches!(header.r#type, Some(MatchType::RegularExpression)))
        .map(|header| header.value.as_str())
        .collect()
}

fn unmapped(route: &ObjectKey, value: &str, policy: &ObjectKey, map: &Map<'_>) -> Finding {
    let what = format!("matches base model {value:?}, which no map gives; capitals count");
    let add = format!("add {value:?} to the map of AgentgatewayPolicy {policy}");
    let fix = match typo(value, map.bases.keys().map(String::as_str)) {
        Some(meant) => {
            let by = map.bases.get(meant).map(|key| format!(" (of {key})")).unwrap_or_default();
            format!("did you mean {meant:?}{by}? Write it so in the route, or {add}")
        }
        None => add,
    };
    Finding::error(Place::new("HTTPRoute", route), what, fix)
}
