//! Conditions of InferencePools beyond Gateway API's Inference Extension: whether requests can be served.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{Exclusion, FailureMode, InferencePool, ObjectKey, Snapshot};

use super::picker::{PickerTarget, picker_replicas, picker_service, picker_target};
use crate::condition::{ConditionStatus, kind, reason};

/// A condition that is present only in its bad state, which is `True`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolProblem {
    /// One of [`kind`].
    pub kind: &'static str,
    /// Reason and message. The message does not change with the number of pods, so that a status is not written for
    /// each of them.
    pub status: ConditionStatus,
}

impl PoolProblem {
    fn new(kind: &'static str, reason: &'static str, message: String) -> Self {
        Self { kind, status: ConditionStatus { is_true: true, reason, message } }
    }
}

/// Pools of the same namespace that share pods and target ports with a pool.
pub type Overlaps = BTreeMap<ObjectKey, BTreeSet<ObjectKey>>;

/// Why the pool cannot serve requests, or not as intended. Empty if it can, and for a pool that does not exist.
pub fn pool_problems(snapshot: &Snapshot, key: &ObjectKey, overlaps: &Overlaps) -> Vec<PoolProblem> {
    let Some(pool) = snapshot.inference_pools.get(key) else { return Vec::new() };
    let problems =
        [no_ready_pods(snapshot, key, pool), picker_problem(snapshot, key, pool), overlap(key, overlaps)];
    problems.into_iter().flatten().collect()
}

fn no_ready_pods(snapshot: &Snapshot, key: &ObjectKey, pool: &InferencePool) -> Option<PoolProblem> {
    let labels = &pool.spec.selector.match_labels;
    let selector = labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    let pods = snapshot.pool_pods(key);
    let (reason, message) = if pods.is_empty() {
        (
            reason::NO_PODS,
            format!("selects no Pod: its selector is {selector} in namespace {}", key.namespace),
        )
    } else {
        let exclusions: Option<BTreeSet<Exclusion>> =
            pods.iter().map(|(_, pod)| snapshot.exclusion(pod)).collect();
        let exclusions = exclusions?;
        let other = exclusions
            .iter()
            .find(|it| matches!(it, Exclusion::AddressTaken { .. } | Exclusion::Role { .. }));
        let message = match other {
            Some(why) => format!("none of the Pods that it selects may get requests ({selector}): {why}"),
            None => format!("none of the Pods that it selects is Ready ({selector})"),
        };
        (reason::PODS_NOT_READY, message)
    };
    Some(PoolProblem::new(kind::NO_READY_PODS, reason, message))
}

/// `None` also if the Service does not exist or the reference is invalid: condition `ResolvedRefs` says so.
fn picker_problem(snapshot: &Snapshot, key: &ObjectKey, pool: &InferencePool) -> Option<PoolProblem> {
    let picker = pool.spec.endpoint_picker_ref.as_ref()?;
    let (service, port) = picker_service(&key.namespace, picker).ok()?;
    let spec = snapshot.services.get(&service)?.spec.as_ref();
    let ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    // The default protocol is TCP.
    let tcp = ports.filter(|it| it.protocol.as_deref().unwrap_or("TCP") == "TCP").map(|it| it.port);
    let ports: Vec<i32> = tcp.collect();
    let then = without_picker(picker.failure_mode);
    let (reason, message) = if !ports.contains(&i32::from(port)) {
        let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        (
            reason::PORT_NOT_FOUND,
            format!(
                "the endpoint picker's Service {service} has no TCP port {port}; its ports are {ports}: {then}"
            ),
        )
    } else if let Some(problem) = external_problem(snapshot, &service, then) {
        problem
    } else if picker_replicas(snapshot, &service, port).is_empty() {
        (
            reason::NO_READY_ENDPOINTS,
            format!("the endpoint picker's Service {service} has no ready endpoint: {then}"),
        )
    } else {
        return None;
    };
    Some(PoolProblem::new(kind::PICKER_UNAVAILABLE, reason, message))
}

/// Why the gateway does not follow the external name of a picker's Service.
fn external_problem(snapshot: &Snapshot, service: &ObjectKey, then: &str) -> Option<(&'static str, String)> {
    match picker_target(snapshot, service) {
        PickerTarget::Own | PickerTarget::Shared(_) => None,
        PickerTarget::Unknown(name) => Some((
            reason::NO_READY_ENDPOINTS,
            format!(
                "the endpoint picker's Service {service} is the external name {name:?}, which is not a Service of the cluster \
                 (NAME.NAMESPACE.svc.DOMAIN): {then}"
            ),
        )),
        PickerTarget::NotGranted(target) => Some((
            reason::REF_NOT_PERMITTED,
            format!(
                "the endpoint picker's Service {service} is an external name of Service {target}, and no ReferenceGrant in \
                 namespace {} lets InferencePools of namespace {} refer to it: {then}",
                target.namespace, service.namespace
            ),
        )),
    }
}

/// What happens to requests while no endpoint picker can be reached.
pub fn without_picker(mode: FailureMode) -> &'static str {
    match mode {
        FailureMode::FailClose => "requests get status 503",
        FailureMode::FailOpen => "endpoints are chosen at random (FailOpen)",
    }
}

fn overlap(key: &ObjectKey, overlaps: &Overlaps) -> Option<PoolProblem> {
    let others = overlaps.get(key)?.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let message = format!(
        "selects Pods and target ports that InferencePool {others} selects too: requests for either pool go to the \
         model servers of both"
    );
    Some(PoolProblem::new(kind::SELECTOR_OVERLAP, reason::SAME_PODS, message))
}

/// Pools that share a pod and a target port. Pools of one pod with different ports are independent model servers.
pub fn overlaps(snapshot: &Snapshot) -> Overlaps {
    let mut by_pod: BTreeMap<ObjectKey, Vec<&ObjectKey>> = BTreeMap::new();
    let mut by_selector: BTreeMap<(&str, &BTreeMap<String, String>), Vec<&ObjectKey>> = BTreeMap::new();
    for (key, pool) in &snapshot.inference_pools {
        by_selector.entry((&key.namespace, &pool.spec.selector.match_labels)).or_default().push(key);
        for (pod, _) in snapshot.pool_pods(key) {
            by_pod.entry(pod).or_default().push(key);
        }
    }
    let mut overlaps = Overlaps::new();
    for pools in by_pod.values().chain(by_selector.values()).filter(|pools| pools.len() > 1) {
        for one in pools {
            for other in pools.iter().filter(|other| *other != one && share_port(snapshot, one, other)) {
                overlaps.entry((*one).clone()).or_default().insert((*other).clone());
            }
        }
    }
    overlaps
}

fn share_port(snapshot: &Snapshot, one: &ObjectKey, other: &ObjectKey) -> bool {
    let ports = |key: &ObjectKey| snapshot.inference_pools.get(key).map(|pool| &pool.spec.target_ports);
    ports(one).zip(ports(other)).is_some_and(|(one, other)| one.iter().any(|port| other.contains(port)))
}
