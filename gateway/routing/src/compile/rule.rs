//! HTTPRoutes compiled to rules, before they attach to listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_resources::{HttpRoute, ObjectKey};
use gateway_api::experimental::httproutes as api;

use super::filters;
use super::policies::PolicyProblem;
use super::reference::Reference;
use super::resolve::{Resolver, Scope};
use super::restrictions::{Restriction, Restrictions};
use crate::condition::{ConditionStatus, reason};
use crate::table::{Backends, Match, RetryPolicy, Rule, Timeouts, Weighted};

/// An HTTPRoute, independent of the listeners that it attaches to.
#[derive(Debug)]
pub(super) struct CompiledRoute<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) object: &'a HttpRoute,
    /// Position in `spec.rules`, matches, rule.
    pub(super) rules: Vec<(usize, Vec<Match>, Arc<Rule>)>,
    /// InferencePools that are named, whether they exist or not.
    pub(super) pools: BTreeSet<ObjectKey>,
    /// Why rules are dropped.
    dropped: Vec<String>,
    pub(super) resolved_refs: ConditionStatus,
    /// Policies that target the route or its backends, with what is not applied.
    pub(super) policies: BTreeMap<ObjectKey, Vec<PolicyProblem>>,
}

impl<'a> CompiledRoute<'a> {
    pub(super) fn new(
        key: &'a ObjectKey,
        object: &'a HttpRoute,
        resolver: &mut Resolver<'_>,
        restrictions: &Restrictions<'_>,
    ) -> Self {
        let mut route = Self {
            key,
            object,
            rules: Vec::new(),
            pools: BTreeSet::new(),
            dropped: Vec::new(),
            resolved_refs: ConditionStatus::met(reason::RESOLVED_REFS),
            policies: BTreeMap::new(),
        };
        for (index, rule) in object.spec.rules.iter().flatten().enumerate() {
            // The first reference that does not resolve is reported.
            let mut unresolved = |status: ConditionStatus| {
                if route.resolved_refs.is_true {
                    let message = format!("rule {index}: {}", status.message);
                    route.resolved_refs = ConditionStatus { message, ..status };
                }
            };
            let origin = format!("{key} rule {index}");
            let snapshot = resolver.snapshot();
            let mut mirror = |reference: Reference<'_>| {
                let mut closed_by = None;
                for policy in restrictions.of_backend(snapshot, key, reference) {
                    let problems = policies_entry(&mut route.policies, policy);
                    if policy.closes() {
                        problems.push(Restriction::problem_of_mirror(&origin));
                        closed_by.get_or_insert_with(|| policy.reason());
                    }
                }
                closed_by
            };
            let mut scope = Scope {
                namespace: &key.namespace,
                unresolved: &mut unresolved,
                pools: &mut route.pools,
                mirror: &mut mirror,
            };
            match compile(rule, &origin, resolver, &mut scope) {
                Ok((matches, mut compiled)) => {
                    for policy in restrictions.of_rule(resolver.snapshot(), key, object, rule) {
                        if policy.closes() && compiled.closed_by.is_none() {
                            compiled.closed_by = Some(policy.reason());
                        }
                        policies_entry(&mut route.policies, policy);
                    }
                    route.rules.push((index, matches, Arc::new(compiled)));
                }
                Err(why) => route.dropped.push(format!("rule {index}: {why}")),
            }
        }
        route
    }

    /// Condition `Accepted` as far as it depends on the route alone, and `PartiallyInvalid`.
    pub(super) fn validity(&self) -> (ConditionStatus, Option<ConditionStatus>) {
        if self.dropped.is_empty() {
            return (ConditionStatus::met(reason::ACCEPTED), None);
        }
        let message = self.dropped.join("; ");
        if self.rules.is_empty() {
            return (ConditionStatus::unmet(reason::UNSUPPORTED_VALUE, message), None);
        }
        let message = format!("Dropped Rule: {message}");
        let partially = ConditionStatus { is_true: true, reason: reason::UNSUPPORTED_VALUE, message };
        (ConditionStatus::met(reason::ACCEPTED), Some(partially))
    }
}

/// The problems of the policy at a route.
fn policies_entry<'p>(
    policies: &'p mut BTreeMap<ObjectKey, Vec<PolicyProblem>>,
    policy: &Restriction<'_>,
) -> &'p mut Vec<PolicyProblem> {
    policies.entry(policy.key.clone()).or_insert_with(|| policy.problems_of_rule())
}

/// A rule with anything unsupported is dropped as a whole: half of it would misroute requests.
fn compile(
    rule: &api::HttpRouteRules,
    origin: &str,
    resolver: &mut Resolver<'_>,
    scope: &mut Scope<'_>,
) -> Result<(Vec<Match>, Rule), String> {
    let mut matches = rule.matches.iter().flatten().map(Match::parse).collect::<Result<Vec<_>, _>>()?;
    if matches.is_empty() {
        matches.push(Match::everything());
    }
    let filters = match rule.filters.as_deref() {
        None | Some([]) => None,
        Some(filters) => Some(Box::new(filters::of_rule(filters, resolver, scope)?)),
    };
    let timeouts = rule.timeouts.as_ref().map_or(Ok(Timeouts::default()), Timeouts::parse)?;
    let retry = rule.retry.as_ref().map(RetryPolicy::parse).transpose()?;
    let backends = backends(rule, resolver, scope)?;
    Ok((matches, Rule { origin: origin.to_owned(), filters, backends, timeouts, retry, closed_by: None }))
}

fn backends(
    rule: &api::HttpRouteRules,
    resolver: &mut Resolver<'_>,
    scope: &mut Scope<'_>,
) -> Result<Backends, String> {
    let mut weighted = Vec::new();
    for reference in rule.backend_refs.iter().flatten() {
        let weight = reference.weight.map_or(1, |weight| u64::try_from(weight).unwrap_or(0));
        let filters = match reference.filters.as_deref() {
            None | Some([]) => None,
            Some(filters) => Some(Box::new(filters::of_backend(filters, resolver, scope)?)),
        };
        let backend = resolver.backend(Reference::of_backend(reference), scope);
        weighted.push(Weighted { weight, backend, filters });
    }
    Ok(Backends::new(weighted))
}
