//! Snapshots compiled to routing tables.
//!
//! References are resolved first (`reference`, `grants`, `resolve`), then routes are compiled (`filters`, `rule`),
//! attached to listeners (`attach`), and sorted into the table. Every decision is recorded in the [`Report`].

mod access;
mod attach;
mod authority;
mod certificate;
mod clients;
mod credential;
mod filters;
mod grants;
mod listener;
mod models;
mod parents;
mod picker;
mod policies;
mod pools;
mod quotas;
mod reference;
mod report;
mod resolve;
mod restrictions;
mod rewrites;
mod rule;
mod settle;
mod targets;
mod trust;

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{HttpRoute, ObjectKey, Snapshot, TrafficPhase};

use self::access::Replaced;
pub use self::access::{KeySource, key_source, label_selector, server_authorities};
use self::attach::{attach, effective_hostnames};
pub use self::certificate::Certificates;
use self::clients::ClientAuthorities;
pub use self::clients::client_authorities;
pub use self::credential::models_secret;
pub use self::grants::is_granted;
use self::listener::{Listener, listeners};
pub use self::models::{ListenerModels, listener_models};
pub use self::parents::gateway_parents;
pub use self::policies::{PolicyEffect, PolicyProblem, PolicyReport};
pub use self::pools::{Overlaps, PoolProblem, overlaps, pool_problems, without_picker};
use self::quotas::{QuotaTargets, TargetQuotas, missing_targets, quota_facts};
pub use self::report::{
    ListenerReport, MissingTarget, ParentReport, PoolReport, QuotaFacts, QuotaReport, Report,
};
use self::resolve::Resolver;
use self::restrictions::{Restrictions, Target};
use self::rule::CompiledRoute;
pub use self::settle::{Settled, SnapshotSettler};
use self::trust::trusted;
use crate::condition::{ConditionStatus, reason};
use crate::table::{
    Access, Entry, ListenerAccess, ListenerPort, ListenerRoutes, ModelMap, PortRoutes, PortSharing,
    RouteTable,
};

/// Compiles the routes of all Gateways of `class`.
///
/// Never fails: what is invalid or not supported is left out of the table, reported in the [`Report`], and listed
/// in [`RouteTable::problems`].
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
    let restrictions = Restrictions::new(snapshot);
    let quotas = QuotaTargets::new(snapshot);
    let routes: Vec<CompiledRoute<'_>> = snapshot
        .http_routes
        .iter()
        .filter(|(key, route)| gateway_parents(key, route).any(|(_, gateway, _)| gateways.contains(&gateway)))
        .map(|(key, route)| CompiledRoute::new(key, route, &mut resolver, &restrictions, &quotas))
        .collect();

    let mut report = Report::default();
    let mut problems = BTreeSet::new();
    let mut attached: Vec<Vec<&CompiledRoute<'_>>> = vec![Vec::new(); listeners.len()];
    for route in &routes {
        let parents: Vec<ParentReport> = gateway_parents(route.key, route.object)
            .filter(|(_, gateway, _)| gateways.contains(gateway))
            .map(|(_, gateway, parent)| attach(snapshot, route, gateway, parent, &listeners, &mut attached))
            .collect();
        report_pools(&mut report, route, &parents, &resolver);
        report_policies(&mut report, route, &parents, &mut problems);
        report.routes.insert(route.key.clone(), parents);
    }
    report.pools.retain(|pool, _| snapshot.inference_pools.contains_key(pool));
    let overlaps = overlaps(snapshot);
    for (pool, of_pool) in &mut report.pools {
        of_pool.problems = pool_problems(snapshot, pool, &overlaps);
    }
    report.rewrites = rewrites::conditions(snapshot, &report.pools);
    report.gateways = gateways.iter().map(|key| ((*key).clone(), Vec::new())).collect();

    let trusted = trusted(snapshot, &gateways, &listeners, &mut problems);
    let listeners = listeners.iter().zip(&attached).zip(trusted);
    let ports =
        ports(snapshot, (&restrictions, &quotas), listeners, certificates, &mut report, &mut problems);
    problems.extend(report.problems());
    let pools = resolver.into_pools();
    let ports = ports.into_iter().map(|(port, routes)| (port, routes.into())).collect();
    report.missing_targets = missing_targets(snapshot, class);
    let (limits, quotas) = (restrictions.into_limits(), quotas.into_valid());
    report.quota_facts = quota_facts(&ports, &quotas);
    (RouteTable { ports, pools, limits, quotas, problems }, report)
}

/// Policies and quotas of the route, its rules and their backends.
fn report_policies(
    report: &mut Report,
    route: &CompiledRoute<'_>,
    parents: &[ParentReport],
    problems: &mut BTreeSet<String>,
) {
    for (policy, of_policy) in &route.policies {
        problems.extend(of_policy.iter().map(|it| format!("AgentgatewayPolicy {policy}: {}", it.message)));
        for parent in parents {
            report_policy(report, policy, &parent.gateway, of_policy);
        }
    }
    for (quota, why) in &route.quotas {
        for parent in parents {
            report_quota(report, quota, &parent.gateway, why.as_ref(), problems);
        }
    }
}

fn report_quota(
    report: &mut Report,
    quota: &ObjectKey,
    gateway: &ObjectKey,
    problem: Option<&PolicyProblem>,
    problems: &mut BTreeSet<String>,
) {
    problems.extend(problem.map(|it| format!("Quota {quota}: {}", it.message)));
    report_at(&mut report.quotas, quota, gateway, problem.map_or(&[], std::slice::from_ref));
}

fn report_pools(
    report: &mut Report,
    route: &CompiledRoute<'_>,
    parents: &[ParentReport],
    resolver: &Resolver<'_>,
) {
    for pool in &route.pools {
        let of_pool = report.pools.entry(pool.clone()).or_insert_with(|| PoolReport {
            parents: BTreeMap::new(),
            resolved_refs: resolver.pool_refs(pool),
            problems: Vec::new(),
        });
        for parent in parents {
            let accepted = of_pool.parents.entry(parent.gateway.clone()).or_insert_with(|| {
                let message = "no HTTPRoute that refers to this InferencePool is accepted by the Gateway";
                ConditionStatus::unmet(reason::HTTP_ROUTE_NOT_ACCEPTED, message)
            });
            if parent.accepted.is_true {
                *accepted = ConditionStatus::met(reason::ACCEPTED);
            }
        }
    }
}

/// Served listeners with their routes, by port.
fn ports<'a>(
    snapshot: &Snapshot,
    (restrictions, quotas): (&Restrictions<'_>, &QuotaTargets<'_>),
    listeners: impl Iterator<Item = ((&'a Listener<'a>, &'a Vec<&'a CompiledRoute<'a>>), bool)>,
    certificates: &mut Certificates,
    report: &mut Report,
    problems: &mut BTreeSet<String>,
) -> BTreeMap<ListenerPort, PortRoutes> {
    let mut ports: BTreeMap<ListenerPort, PortRoutes> = BTreeMap::new();
    let mut keys: BTreeMap<ListenerPort, (Vec<_>, Option<ClientAuthorities>)> = BTreeMap::new();
    for ((listener, routes), is_trusted) in listeners {
        let of_gateway = report.gateways.entry(listener.gateway.clone()).or_default();
        of_gateway.push(listener_report(listener, routes.len()));
        if let Some(port) = listener.port.clone().filter(|_| listener.is_served()) {
            let mut access = restrict(listener, snapshot, restrictions, report, problems);
            limit(&mut access, listener, quotas, report, problems);
            let models = listener_models(snapshot, listener.gateway, &listener.spec.name);
            report_models(&models, listener.gateway, report, problems);
            let routes = listener_routes(listener, is_trusted, access, models.map, routes);
            ports.entry(port.clone()).or_default().listeners.push(routes);
            if listener.is_tls() {
                let (of_port, clients) = keys.entry(port).or_default();
                of_port.push((listener.hostname.clone(), listener.keys.clone()));
                // The same for all listeners of a port: others are conflicted.
                clients.clone_from(&listener.clients);
            }
        }
    }
    for (port, routes) in &mut ports {
        routes.listeners.sort_by_key(|listener| listener.hostname().rank());
        if let Some((mut keys, clients)) = keys.remove(port) {
            keys.sort_by_key(|(hostname, _)| hostname.rank());
            routes.tls = certificates.config(port, keys, clients);
        }
    }
    certificates.retain(snapshot, |port| ports.contains_key(port));
    ports
}

/// What policies require at the listener, and why it is closed.
fn restrict(
    listener: &Listener<'_>,
    snapshot: &Snapshot,
    restrictions: &Restrictions<'_>,
    report: &mut Report,
    problems: &mut BTreeSet<String>,
) -> ListenerAccess {
    let mut closed_by = None;
    let mut phases = [Vec::new(), Vec::new()];
    let mut of_policies: Vec<(&ObjectKey, Vec<PolicyProblem>)> = Vec::new();
    for (policy, level) in restrictions.of_listener(snapshot, listener.gateway, &listener.spec.name) {
        closed_by = closed_by.or_else(|| policy.closes(Target::Listener));
        of_policies.push((policy.key, policy.problems(Target::Listener)));
        let is_after = policy.phase() == TrafficPhase::PostRouting;
        phases[usize::from(is_after)].extend(policy.attached(level));
    }
    let [before, after] = phases.map(|attached| {
        let (access, replaced) = Access::merge(attached);
        let target = format!("listener {} of Gateway {}", listener.spec.name, listener.gateway);
        let problems = |it: &Replaced<'_>| vec![PolicyProblem::replaced(&target, it.field, it.older)];
        of_policies.extend(replaced.iter().map(|it| (it.policy, problems(it))));
        access
    });
    for (policy, of_policy) in &of_policies {
        problems.extend(of_policy.iter().map(|it| format!("AgentgatewayPolicy {policy}: {}", it.message)));
        report_policy(report, policy, listener.gateway, of_policy);
    }
    ListenerAccess { closed_by, quotas: None, before, after }
}

/// Adds the quotas of the listener.
fn limit(
    access: &mut ListenerAccess,
    listener: &Listener<'_>,
    quotas: &QuotaTargets<'_>,
    report: &mut Report,
    problems: &mut BTreeSet<String>,
) {
    let TargetQuotas { closed_by, quotas, reports } =
        quotas.of_listener(listener.gateway, &listener.spec.name);
    for (quota, why) in &reports {
        report_quota(report, quota, listener.gateway, why.as_ref(), problems);
    }
    access.closed_by = access.closed_by.take().or(closed_by);
    access.quotas = quotas;
}

fn report_models(
    models: &ListenerModels,
    gateway: &ObjectKey,
    report: &mut Report,
    problems: &mut BTreeSet<String>,
) {
    problems.extend(models.config_map_errors.iter().map(|(key, why)| format!("ConfigMap {key}: {why}")));
    for (policy, of_policy) in &models.policies {
        problems.extend(of_policy.iter().map(|it| format!("AgentgatewayPolicy {policy}: {}", it.message)));
        report_policy(report, policy, gateway, of_policy);
    }
}

fn report_policy(report: &mut Report, policy: &ObjectKey, gateway: &ObjectKey, problems: &[PolicyProblem]) {
    report_at(&mut report.policies, policy, gateway, problems);
}

/// Adds the problems of a policy or a quota at a Gateway.
fn report_at(
    reports: &mut BTreeMap<ObjectKey, BTreeMap<ObjectKey, PolicyReport>>,
    key: &ObjectKey,
    gateway: &ObjectKey,
    problems: &[PolicyProblem],
) {
    reports.entry(key.clone()).or_default().entry(gateway.clone()).or_default().add(problems);
}

fn listener_routes(
    listener: &Listener<'_>,
    is_trusted: bool,
    access: ListenerAccess,
    models: ModelMap,
    routes: &[&CompiledRoute<'_>],
) -> ListenerRoutes {
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
    ListenerRoutes::new(listener.hostname.clone(), is_trusted, access, models, entries)
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
        allows_any_client: listener.clients.as_ref().is_some_and(|clients| clients.is_optional),
    }
}

/// Sort key by creation time; routes without one come last.
fn age(route: &HttpRoute) -> impl Ord + Clone + use<> {
    let created = route.metadata.creation_timestamp.clone();
    (created.is_none(), created)
}
