//! Conditions of all resources that the routing table was compiled from.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::ObjectKey;
use gateway_api::experimental::httproutes::HttpRouteParentRefs;

use super::policies::PolicyReport;
use super::pools::PoolProblem;
use crate::condition::ConditionStatus;
use crate::table::ListenerPort;

/// Input of all statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Gateways of the served class; listeners in the order of `spec.listeners`.
    pub gateways: BTreeMap<ObjectKey, Vec<ListenerReport>>,
    /// HTTPRoutes that name one of these Gateways; the matching entries of `spec.parentRefs` in order.
    pub routes: BTreeMap<ObjectKey, Vec<ParentReport>>,
    /// Existing InferencePools that HTTPRoutes of these Gateways refer to.
    pub pools: BTreeMap<ObjectKey, PoolReport>,
    /// AgentgatewayPolicies that target these Gateways, their routes, or backends of these, by Gateway.
    pub policies: BTreeMap<ObjectKey, BTreeMap<ObjectKey, PolicyReport>>,
    /// Quotas that target these Gateways or their routes, by Gateway.
    pub quotas: BTreeMap<ObjectKey, BTreeMap<ObjectKey, PolicyReport>>,
    /// What is known of these quotas if they are valid.
    pub quota_facts: BTreeMap<ObjectKey, QuotaFacts>,
    /// Targets of quotas that do not exist.
    pub missing_targets: BTreeMap<ObjectKey, Vec<MissingTarget>>,
    /// InferenceModelRewrites of these pools and of pools that do not exist: condition `Accepted`.
    pub rewrites: BTreeMap<ObjectKey, ConditionStatus>,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerReport {
    /// `spec.listeners[].name`.
    pub name: String,
    /// The port that must be open for the condition `Programmed`; `None` if the listener is not served.
    pub port: Option<ListenerPort>,
    /// `status.listeners[].supportedKinds`, all of group `gateway.networking.k8s.io`.
    pub supported_kinds: Vec<&'static str>,
    /// HTTPRoutes that are attached, whether or not the listener is served.
    pub attached_routes: i32,
    /// Condition `Accepted`.
    pub accepted: ConditionStatus,
    /// Condition `Conflicted`: true is the bad state.
    pub conflicted: ConditionStatus,
    /// Condition `ResolvedRefs`.
    pub resolved_refs: ConditionStatus,
    /// It asks clients for a certificate, and serves them also without a valid one.
    pub allows_any_client: bool,
}

/// An HTTPRoute at one of its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentReport {
    /// The entry of `spec.parentRefs`.
    pub parent: HttpRouteParentRefs,
    /// The Gateway that it names.
    pub gateway: ObjectKey,
    /// Condition `Accepted`.
    pub accepted: ConditionStatus,
    /// Condition `ResolvedRefs`.
    pub resolved_refs: ConditionStatus,
    /// Condition `PartiallyInvalid`, present and true if some of the rules were dropped.
    pub partially_invalid: Option<ConditionStatus>,
}

// HttpRouteParentRefs contains no floating point numbers.
impl Eq for ParentReport {}

/// An InferencePool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// Condition `Accepted` by Gateway with an HTTPRoute that refers to the pool.
    pub parents: BTreeMap<ObjectKey, ConditionStatus>,
    /// Condition `ResolvedRefs`, the same for all parents.
    pub resolved_refs: ConditionStatus,
    /// Conditions of this controller's own types, the same for all parents.
    pub problems: Vec<PoolProblem>,
}

/// A valid quota that targets something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaFacts {
    /// The smallest of its limits.
    pub smallest: u128,
    /// It is for callers with certain API keys, and none that is accepted at its targets is one of them.
    pub selects_no_key: bool,
}

/// What a quota targets and does not exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingTarget {
    /// `Gateway` or `HTTPRoute`.
    pub kind: &'static str,
    /// Namespace and name.
    pub key: ObjectKey,
    /// A listener of an existing Gateway.
    pub listener: Option<String>,
}

/// A quota, for its status.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuotaReport<'a> {
    pub(crate) gateways: Option<&'a BTreeMap<ObjectKey, PolicyReport>>,
    pub(crate) facts: Option<QuotaFacts>,
    pub(crate) missing: &'a [MissingTarget],
}

impl Report {
    /// What is known of a quota.
    pub fn quota(&self, key: &ObjectKey) -> QuotaReport<'_> {
        QuotaReport {
            gateways: self.quotas.get(key),
            facts: self.quota_facts.get(key).copied(),
            missing: self.missing_targets.get(key).map_or(&[], Vec::as_slice),
        }
    }

    /// One line for each condition in a bad state.
    pub fn problems(&self) -> BTreeSet<String> {
        let mut problems = BTreeSet::new();
        for (gateway, listeners) in &self.gateways {
            for listener in listeners {
                let bad = [
                    (!listener.accepted.is_true).then_some(&listener.accepted),
                    (!listener.resolved_refs.is_true).then_some(&listener.resolved_refs),
                    listener.conflicted.is_true.then_some(&listener.conflicted),
                ];
                problems.extend(bad.into_iter().flatten().map(|status| {
                    format!(
                        "Gateway {gateway}: listener {}: {}: {}",
                        listener.name, status.reason, status.message
                    )
                }));
            }
        }
        for (route, parents) in &self.routes {
            for parent in parents {
                let bad = [
                    (!parent.accepted.is_true).then_some(&parent.accepted),
                    (!parent.resolved_refs.is_true).then_some(&parent.resolved_refs),
                    parent.partially_invalid.as_ref(),
                ];
                problems.extend(bad.into_iter().flatten().map(|status| {
                    format!(
                        "HTTPRoute {route}: at Gateway {}: {}: {}",
                        parent.gateway, status.reason, status.message
                    )
                }));
            }
        }
        for (pool, report) in self.pools.iter().filter(|(_, report)| !report.resolved_refs.is_true) {
            let status = &report.resolved_refs;
            problems.insert(format!("InferencePool {pool}: {}: {}", status.reason, status.message));
        }
        for (rewrite, status) in self.rewrites.iter().filter(|(_, status)| !status.is_true) {
            problems
                .insert(format!("InferenceModelRewrite {rewrite}: {}: {}", status.reason, status.message));
        }
        problems
    }
}
