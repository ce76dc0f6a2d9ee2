use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{HttpRoute, ObjectKey, Snapshot};
use gateway_api::experimental::httproutes::HttpRouteParentRefs;

use super::GATEWAY_GROUP;
use super::backend::Resolver;
use super::certificate::Certificates;
use super::hostname::Hostname;
use super::listener::{Listener, listeners};
use super::matching::age;
use super::models::{Said, model_map};
use super::report::{ListenerReport, ParentReport, PoolReport, Report, Verdict, reason};
use super::rewrites::verdicts;
use super::rule::CompiledRoute;
use super::table::{Entry, ListenerPort, ListenerRoutes, PortRoutes, PortSharing, RouteTable};
use super::trust::trusted;

/// Compiles the routes of all Gateways of `class`, and says what became of each.
pub fn compile(
    snapshot: &Snapshot,
    class: &str,
    sharing: PortSharing,
    certificates: &mut Certificates,
) -> (RouteTable, Report) {
    let listeners = listeners(snapshot, class, sharing, certificates);
    let gateways: BTreeSet<&ObjectKey> = snapshot
        .gateways
        .iter()
        .filter(|(_, gateway)| gateway.spec.gateway_class_name == class)
        .map(|(key, _)| key)
        .collect();
    let mut resolver = Resolver::new(snapshot);
    let routes: Vec<CompiledRoute<'_>> = snapshot
        .http_routes
        .iter()
        .filter(|(key, route)| parents(key, route).any(|(gateway, _)| gateways.contains(&gateway)))
        .map(|(key, route)| CompiledRoute::new(key, route, &mut resolver))
        .collect();

    let mut report = Report::default();
    let mut attached: Vec<Vec<&CompiledRoute<'_>>> = vec![Vec::new(); listeners.len()];
    for route in &routes {
        let parents = parents(route.key, route.object).filter(|(gateway, _)| gateways.contains(gateway));
        let parents: Vec<ParentReport> = parents
            .map(|(gateway, parent)| {
                judge_parent(snapshot, route, gateway, parent, &listeners, &mut attached)
            })
            .collect();
        for pool in &route.pools {
            let of_pool = report.pools.entry(pool.clone()).or_insert_with(|| PoolReport {
                parents: BTreeMap::new(),
                resolved_refs: resolver.pool_refs(pool),
            });
            for parent in &parents {
                let accepted = of_pool.parents.entry(parent.gateway.clone()).or_insert_with(|| {
                    let why = "no HTTPRoute that refers to this InferencePool is accepted by the Gateway";
                    Verdict::no(reason::HTTP_ROUTE_NOT_ACCEPTED, why)
                });
                if parent.accepted.holds {
                    *accepted = Verdict::yes(reason::ACCEPTED);
                }
            }
        }
        report.routes.insert(route.key.clone(), parents);
    }
    report.pools.retain(|pool, _| snapshot.inference_pools.contains_key(pool));
    report.rewrites = verdicts(snapshot, &report.pools);
    report.gateways = gateways.iter().map(|key| ((*key).clone(), Vec::new())).collect();

    let mut problems = BTreeSet::new();
    let trusted = trusted(snapshot, &gateways, &listeners, &mut problems);
    let mut ports: BTreeMap<ListenerPort, PortRoutes> = BTreeMap::new();
    let mut keys: BTreeMap<ListenerPort, Vec<_>> = BTreeMap::new();
    for ((listener, routes), is_trusted) in listeners.iter().zip(&attached).zip(trusted) {
        let of_gateway = report.gateways.entry(listener.gateway.clone()).or_default();
        of_gateway.push(listener_report(listener, routes.len()));
        if let Some(port) = listener.port.clone().filter(|_| listener.is_served()) {
            let routes =
                listener_routes(snapshot, listener, is_trusted, routes, &mut report.policies, &mut problems);
            ports.entry(port.clone()).or_default().listeners.push(routes);
            if listener.is_tls() {
                keys.entry(port).or_default().push((listener.hostname.clone(), listener.keys.clone()));
            }
        }
    }
    for (port, routes) in &mut ports {
        routes.listeners.sort_by_key(|listener| listener.hostname().rank());
        if let Some(mut keys) = keys.remove(port) {
            keys.sort_by_key(|(hostname, _)| hostname.rank());
            routes.tls = certificates.config(port, keys);
        }
    }
    certificates.retain(snapshot, |port| ports.contains_key(port));
    problems.extend(report.problems());
    let pools = resolver.into_pools();
    let ports = ports.into_iter().map(|(port, routes)| (port, routes.into())).collect();
    (RouteTable { ports, pools, problems }, report)
}

/// The Gateways that a route names, with the references that do.
fn parents<'a>(
    key: &'a ObjectKey,
    route: &'a HttpRoute,
) -> impl Iterator<Item = (ObjectKey, &'a HttpRouteParentRefs)> {
    let is_gateway = |parent: &&HttpRouteParentRefs| {
        parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP
            && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
    };
    route.spec.parent_refs.iter().flatten().filter(is_gateway).map(|parent| {
        let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
        (ObjectKey::new(namespace, &parent.name), parent)
    })
}

/// Attaches the route to those listeners of the parent that take it, and says why if there are none.
fn judge_parent<'a>(
    snapshot: &Snapshot,
    route: &'a CompiledRoute<'a>,
    gateway: ObjectKey,
    parent: &HttpRouteParentRefs,
    listeners: &[Listener<'_>],
    attached: &mut [Vec<&'a CompiledRoute<'a>>],
) -> ParentReport {
    let (valid, partially_invalid) = route.validity();
    let mut accepted = Verdict::no(
        reason::NO_MATCHING_PARENT,
        "the Gateway has no listener with the sectionName and port of the parentRef",
    );
    let mut attaches = false;
    for (listener, attached) in listeners.iter().zip(attached) {
        let is_meant = *listener.gateway == gateway
            && parent.section_name.as_ref().is_none_or(|section| *section == listener.spec.name)
            && parent.port.is_none_or(|port| port == listener.spec.port);
        if !is_meant {
            continue;
        }
        let refused = match listener.allows_namespace(snapshot, &route.key.namespace) {
            _ if attaches && !valid.holds => continue,
            _ if !listener.takes_http_routes => {
                Some((reason::NOT_ALLOWED_BY_LISTENERS, "the listener does not allow HTTPRoutes"))
            }
            Err(why) => Some((reason::NOT_ALLOWED_BY_LISTENERS, why)),
            Ok(()) if effective_hostnames(&listener.hostname, route.object).is_empty() => Some((
                reason::NO_MATCHING_LISTENER_HOSTNAME,
                "no hostname of the route is among those of the listener",
            )),
            Ok(()) => None,
        };
        match refused {
            None => {
                attaches = true;
                // A second parentRef may mean the same listener.
                if valid.holds && !attached.iter().any(|known| known.key == route.key) {
                    attached.push(route);
                }
            }
            // Of several reasons, the one that came furthest.
            Some((reason, why)) if accepted.reason != reason::NO_MATCHING_LISTENER_HOSTNAME => {
                accepted = Verdict::no(reason, format!("listener {}: {why}", listener.spec.name));
            }
            Some(_) => {}
        }
    }
    let accepted = if attaches { valid } else { accepted };
    ParentReport {
        parent: parent.clone(),
        gateway,
        accepted,
        resolved_refs: route.resolved_refs.clone(),
        partially_invalid: partially_invalid.filter(|_| attaches),
    }
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

fn listener_routes(
    snapshot: &Snapshot,
    listener: &Listener<'_>,
    is_trusted: bool,
    routes: &[&CompiledRoute<'_>],
    policies: &mut BTreeMap<ObjectKey, BTreeMap<ObjectKey, Verdict>>,
    problems: &mut BTreeSet<String>,
) -> ListenerRoutes {
    let models = model_map(snapshot, listener.gateway, &listener.spec.name, |said| match said {
        Said::ConfigMap(why) => drop(problems.insert(why)),
        Said::Policy(key, done) => {
            let at_gateways = policies.entry(key.clone()).or_default();
            let verdict =
                at_gateways.entry(listener.gateway.clone()).or_insert_with(|| Verdict::yes(reason::ACCEPTED));
            if let Err(why) = done {
                problems.insert(format!("AgentgatewayPolicy {key}: {why}"));
                if verdict.holds {
                    *verdict = Verdict::no(reason::INVALID, why);
                }
            }
        }
    });
    let mut entries = Vec::new();
    for route in routes {
        for hostname in effective_hostnames(&listener.hostname, route.object) {
            for (index, matches, rule) in &route.rules {
                for (at, matching) in matches.iter().enumerate() {
                    let order = (hostname.rank(), matching.rank(), age(route.object), route.key, *index, at);
                    let (hostname, matching, rule) = (hostname.clone(), matching.clone(), rule.clone());
                    entries.push((order, Entry { hostname, matching, rule }));
                }
            }
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let entries = entries.into_iter().map(|(_, entry)| entry).collect();
    ListenerRoutes::new(listener.hostname.clone(), is_trusted, models, entries)
}

fn listener_report(listener: &Listener<'_>, attached_routes: usize) -> ListenerReport {
    ListenerReport {
        name: listener.spec.name.clone(),
        port: listener.port.clone().filter(|_| listener.is_served()),
        supported_kinds: listener.supported_kinds(),
        attached_routes: i32::try_from(attached_routes).unwrap_or(i32::MAX),
        accepted: listener.accepted.clone(),
        conflicted: listener.conflicted.clone(),
        resolved_refs: listener.resolved_refs.clone(),
    }
}
