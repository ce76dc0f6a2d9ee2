//! InferencePools: pods, ports, endpoint picker, and routes.

mod health;
mod members;
mod picker;
mod ports;

use forebay_resources::{InferencePool, Kind, ObjectKey, Pod, takes_requests};
use forebay_routing::{PoolProblem, kind, overlaps, pool_problems};

use super::{
    advice::Advice,
    finding::{Finding, Level, Object, or_ok},
    installation::Installation,
    references::backends,
};

pub(super) fn check(installation: &Installation) -> Vec<Finding> {
    if !installation.knows(Kind::InferencePool, None) {
        return Vec::new();
    }
    let pools = &installation.snapshot.inference_pools;
    if pools.is_empty() {
        let fix = "install the chart charts/inferencepool for each model, with inferencePool.modelServers.matchLabels set to \
            the labels of its model server";
        return vec![Finding::warning(Object::all("InferencePools"), "no InferencePool exists", fix)];
    }
    let overlaps = overlaps(&installation.snapshot);
    let problems = |key| pool_problems(&installation.snapshot, key, &overlaps);
    pools.iter().flat_map(|(key, pool)| check_pool(installation, key, pool, problems(key))).collect()
}

fn check_pool(
    installation: &Installation,
    key: &ObjectKey,
    pool: &InferencePool,
    problems: Vec<PoolProblem>,
) -> Vec<Finding> {
    let knows = |kind| installation.knows(kind, Some(&key.namespace));
    let mut findings = Vec::new();
    let mut summary = Vec::new();
    for problem in problems {
        match problem.kind {
            kind::PICKER_UNAVAILABLE if picker::is_known(installation, key) => {
                findings.push(picker::unavailable(key, pool, problem));
            }
            kind::NO_READY_PODS if knows(Kind::Pod) => {
                findings.push(members::none_ready(installation, key, pool, problem));
            }
            kind::SELECTOR_OVERLAP => findings.push(overlap(key, problem)),
            _ => {}
        }
    }
    if knows(Kind::Pod) {
        let pods: Vec<(&ObjectKey, &Pod)> = installation.pool_pods(key).collect();
        let ready: Vec<&ObjectKey> =
            pods.iter().filter(|(_, pod)| takes_requests(pod)).map(|(key, _)| *key).collect();
        findings.extend(ports::check(key, pool, &pods));
        summary.push(format!("{} of {} pods are Ready", ready.len(), pods.len()));
        let observed = health::check(installation, key, pool, &ready);
        findings.extend(observed.findings);
        summary.extend(observed.summary);
    }
    let picker = picker::check(installation, key, pool);
    findings.extend(picker.findings);
    summary.extend(picker.summary);
    if installation.knows(Kind::HttpRoute, None) && !is_referred_to(installation, key) {
        let fix = "apply an HTTPRoute with it in backendRefs (chart inferencepool: httpRoute.enabled=true)";
        findings.push(Finding::warning(Object::new("InferencePool", key), "no HTTPRoute refers to it", fix));
    }
    findings.extend(unaccepted(installation, key));
    if !knows(Kind::Pod) {
        return findings;
    }
    or_ok(findings, || Finding::ok(Object::new("InferencePool", key), summary.join("; ")))
}

/// What a check of a part of a pool has found.
struct Checked {
    findings: Vec<Finding>,
    /// What was looked at, for the finding that the pool is ok.
    summary: Option<String>,
}

fn finding(level: Level, key: &ObjectKey, problem: PoolProblem, fix: Advice) -> Finding {
    let object = Object::new("InferencePool", key);
    let reason = problem.status.reason;
    Finding { level, ..Finding::error(object, problem.status.message, fix) }.because(reason)
}

fn overlap(key: &ObjectKey, problem: PoolProblem) -> Finding {
    let fix =
        "give each model server a label of its own, and name it in spec.selector.matchLabels of its pool";
    finding(Level::Warning, key, problem, fix.into())
}

/// Gateways at which no route to the pool is accepted.
fn unaccepted(installation: &Installation, key: &ObjectKey) -> Vec<Finding> {
    if !installation.knows_all([Kind::HttpRoute, Kind::Gateway, Kind::Namespace]) {
        return Vec::new();
    }
    let parents = installation.report.pools.get(key).into_iter().flat_map(|pool| &pool.parents);
    let refused = parents.filter(|(_, accepted)| !accepted.is_true);
    refused
        .map(|(gateway, accepted)| {
            let message = format!("at Gateway {gateway}: {}", accepted.message);
            let fix = "see the findings for the HTTPRoutes that refer to it";
            Finding::warning(Object::new("InferencePool", key), message, fix).because(accepted.reason)
        })
        .collect()
}

fn is_referred_to(installation: &Installation, pool: &ObjectKey) -> bool {
    let mut routes = installation.snapshot.http_routes.iter();
    routes.any(|(key, route)| backends(key, route).any(|backend| backend.is_pool() && backend.key == *pool))
}
