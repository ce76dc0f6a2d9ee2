use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use forebay_agent::resources::{HttpRoute, ObjectKey, Snapshot};
use forebay_epp::protocol::{BASE_MODEL_NAME, MODEL_NAME};
use gateway_api::gateways::{GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From};
use gateway_api::httproutes::HttpRouteRules;

use super::backend::{Backends, Resolver, Schedulers};
use super::hostname::Hostname;
use super::matching::{Match, age};
use super::models::model_map;
use super::table::{Entry, ListenerRoutes, PortRoutes, RouteTable};
use super::timeouts::Timeouts;

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Compiles the routes of all Gateways of `class`.
pub(crate) fn compile(snapshot: &Snapshot, class: &str, schedulers: &mut impl Schedulers) -> RouteTable {
    let mut problems = BTreeSet::new();
    let mut resolver = Resolver::new(snapshot, schedulers);
    let rules = compile_rules(snapshot, &mut resolver, &mut problems);
    let mut ports: BTreeMap<u16, PortRoutes> = BTreeMap::new();
    for (key, gateway) in &snapshot.gateways {
        if gateway.spec.gateway_class_name != class {
            continue;
        }
        for listener in &gateway.spec.listeners {
            let mut refuse = |why: String| {
                problems.insert(format!("Gateway {key}: listener {} is not opened: {why}", listener.name));
            };
            if listener.protocol != "HTTP" {
                refuse(format!("protocol {} is not supported", listener.protocol));
                continue;
            }
            let Some(port) = u16::try_from(listener.port).ok().filter(|port| *port != 0) else {
                refuse(format!("{} is no port", listener.port));
                continue;
            };
            let hostname = Hostname::parse(listener.hostname.as_deref());
            let of_port = ports.entry(port).or_default();
            if of_port.listeners.iter().any(|other| other.hostname == hostname) {
                refuse("another listener has the same port and hostname".into());
                continue;
            }
            let models = model_map(snapshot, key, &listener.name, |why| {
                problems.insert(why);
            });
            of_port.listeners.push(attach(hostname, models, key, listener, &rules, &mut problems));
        }
    }
    for port in ports.values_mut() {
        port.listeners.sort_by_key(|listener| listener.hostname.rank());
    }
    let ports = ports.into_iter().map(|(port, routes)| (port, Arc::new(routes))).collect();
    RouteTable { ports, pools: resolver.into_pools(), problems }
}

/// A rule of a route, whichever listeners it will be attached to.
struct Rule<'a> {
    route: &'a ObjectKey,
    object: &'a HttpRoute,
    index: usize,
    matches: Vec<Match>,
    backends: Arc<Backends>,
    timeouts: Timeouts,
}

fn compile_rules<'a>(
    snapshot: &'a Snapshot,
    resolver: &mut Resolver<'a, impl Schedulers>,
    problems: &mut BTreeSet<String>,
) -> Vec<Rule<'a>> {
    let mut rules = Vec::new();
    for (route, object) in &snapshot.http_routes {
        for (index, rule) in object.spec.rules.iter().flatten().enumerate() {
            let mut note = |why: String| {
                problems.insert(format!("HTTPRoute {route}: rule {index}: {why}"));
            };
            match compile_matches(rule) {
                Err(why) => note(format!("not attached: {why}")),
                Ok(matches) => {
                    let timeouts = rule.timeouts.as_ref().map_or(Ok(Timeouts::default()), Timeouts::parse);
                    let timeouts = timeouts.unwrap_or_else(|why| {
                        note(why);
                        Timeouts::default()
                    });
                    let backends = Arc::new(resolver.backends(&route.namespace, rule, note));
                    rules.push(Rule { route, object, index, matches, backends, timeouts });
                }
            }
        }
    }
    rules
}

/// What is not supported keeps the whole rule out: half a rule would send requests where they do not belong.
fn compile_matches(rule: &HttpRouteRules) -> Result<Vec<Match>, String> {
    let backend_filters =
        rule.backend_refs.iter().flatten().flat_map(|backend| &backend.filters).flatten().count();
    if rule.filters.iter().flatten().count() + backend_filters > 0 {
        return Err("filters are not supported".into());
    }
    let matches = rule.matches.iter().flatten().map(Match::parse).collect::<Result<Vec<_>, _>>()?;
    Ok(if matches.is_empty() { vec![Match::everything()] } else { matches })
}

fn attach(
    hostname: Hostname,
    models: super::models::ModelMap,
    gateway: &ObjectKey,
    listener: &GatewayListeners,
    rules: &[Rule<'_>],
    problems: &mut BTreeSet<String>,
) -> ListenerRoutes {
    let mut entries = Vec::new();
    for rule in rules {
        if !refers_to(rule, gateway, listener) {
            continue;
        }
        if let Err(why) = allows(listener, &gateway.namespace, &rule.route.namespace) {
            problems.insert(format!(
                "HTTPRoute {}: not attached to listener {} of Gateway {gateway}: {why}",
                rule.route, listener.name
            ));
            continue;
        }
        for hostname in effective_hostnames(&hostname, rule.object) {
            for (at, matching) in rule.matches.iter().enumerate() {
                let order =
                    (hostname.rank(), matching.rank(), age(rule.object), rule.route.clone(), rule.index, at);
                let entry = Entry {
                    hostname: hostname.clone(),
                    matching: matching.clone(),
                    backends: rule.backends.clone(),
                    timeouts: rule.timeouts,
                };
                entries.push((order, entry));
            }
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
    let known_models = known_models(&models, &entries);
    ListenerRoutes { hostname, models, entries, known_models }
}

fn refers_to(rule: &Rule<'_>, gateway: &ObjectKey, listener: &GatewayListeners) -> bool {
    rule.object.spec.parent_refs.iter().flatten().any(|parent| {
        parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
            && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
            && parent.name == gateway.name
            && *parent.namespace.as_ref().unwrap_or(&rule.route.namespace) == gateway.namespace
            && parent.section_name.as_ref().is_none_or(|section| *section == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
    })
}

/// Whether the listener takes HTTPRoutes of that namespace.
fn allows(
    listener: &GatewayListeners,
    gateway_namespace: &str,
    route_namespace: &str,
) -> Result<(), &'static str> {
    let Some(allowed) = &listener.allowed_routes else {
        return same_namespace(gateway_namespace, route_namespace);
    };
    let takes_routes = allowed.kinds.as_ref().is_none_or(|kinds| {
        kinds.is_empty()
            || kinds.iter().any(|kind| {
                kind.kind == "HTTPRoute" && kind.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
            })
    });
    if !takes_routes {
        return Err("the listener does not allow HTTPRoutes");
    }
    match allowed.namespaces.as_ref().and_then(|namespaces| namespaces.from.as_ref()) {
        Some(From::All) => Ok(()),
        Some(From::Selector) => Err("allowedRoutes.namespaces.from Selector is not supported"),
        Some(From::Same) | None => same_namespace(gateway_namespace, route_namespace),
    }
}

fn same_namespace(gateway: &str, route: &str) -> Result<(), &'static str> {
    if gateway == route { Ok(()) } else { Err("the listener allows routes of its own namespace only") }
}

/// What the listener's hostname and the route's have in common.
fn effective_hostnames(listener: &Hostname, route: &HttpRoute) -> Vec<Hostname> {
    match route.spec.hostnames.as_deref() {
        None | Some([]) => vec![listener.clone()],
        Some(names) => {
            names.iter().filter_map(|name| listener.intersect(&Hostname::parse(Some(name)))).collect()
        }
    }
}

fn known_models(models: &super::models::ModelMap, entries: &[Entry]) -> HashSet<Arc<str>> {
    let matched = entries.iter().flat_map(|entry| &entry.matching.headers).filter_map(|(name, value)| {
        matches!(name.as_str(), MODEL_NAME | BASE_MODEL_NAME).then(|| value.to_str().ok()).flatten()
    });
    models.names().chain(matched).map(Arc::from).collect()
}
