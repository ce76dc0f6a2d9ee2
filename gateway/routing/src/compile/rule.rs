//! HTTPRoutes compiled to rules, before they attach to listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_resources::{HttpRoute, ObjectKey, Snapshot};
use gateway_api::experimental::httproutes as api;

use super::access::Replaced;
use super::filters;
use super::policies::PolicyProblem;
use super::quotas::{QuotaTargets, TargetQuotas};
use super::reference::Reference;
use super::resolve::{Resolver, Scope};
use super::restrictions::{Restriction, Restrictions, Target};
use crate::condition::{ConditionStatus, reason};
use crate::table::{Access, Backends, Match, RetryPolicy, Rule, Timeouts, Weighted};

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
    /// Quotas that target the route, with why they are not enforced.
    pub(super) quotas: BTreeMap<ObjectKey, Option<PolicyProblem>>,
}

impl<'a> CompiledRoute<'a> {
    pub(super) fn new(
        key: &'a ObjectKey,
        object: &'a HttpRoute,
        resolver: &mut Resolver<'_>,
        restrictions: &Restrictions<'_>,
        quotas: &QuotaTargets<'_>,
    ) -> Self {
        let of_route = quotas.of_route(key);
        let mut route = Self {
            key,
            object,
            rules: Vec::new(),
            pools: BTreeSet::new(),
            dropped: Vec::new(),
            resolved_refs: ConditionStatus::met(reason::RESOLVED_REFS),
            policies: BTreeMap::new(),
            quotas: BTreeMap::new(),
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
                    let problems = policies_entry(&mut route.policies, policy, Target::Backend);
                    if let Some(reason) = policy.closes(Target::Backend) {
                        problems.push(Restriction::problem_of_mirror(&origin));
                        closed_by.get_or_insert(reason);
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
                    route.restrict(&mut compiled, rule, resolver.snapshot(), restrictions);
                    compiled.quotas.clone_from(&of_route.quotas);
                    route.close(&mut compiled, rule, quotas, &of_route);
                    route.rules.push((index, matches, Arc::new(compiled)));
                }
                Err(why) => route.dropped.push(format!("rule {index}: {why}")),
            }
        }
        route.quotas.extend(of_route.reports);
        route
    }

    /// Closes the rule if a quota of the route or of a backend is not enforced. Quotas of backends never are.
    fn close(
        &mut self,
        compiled: &mut Rule,
        rule: &api::HttpRouteRules,
        quotas: &QuotaTargets<'_>,
        of_route: &TargetQuotas,
    ) {
        let references = rule.backend_refs.iter().flatten().map(Reference::of_backend);
        let of_backends = references.map(|reference| quotas.of_backend(self.key, reference));
        let of_backends: Vec<TargetQuotas> = of_backends.collect();
        let mut closing = std::iter::once(of_route).chain(&of_backends).filter_map(|it| it.closed_by.clone());
        if compiled.closed_by.is_none() {
            compiled.closed_by = closing.next();
        }
        self.quotas.extend(of_backends.into_iter().flat_map(|it| it.reports));
    }

    /// Applies the policies of the route, the rule, and the rule's backends.
    fn restrict(
        &mut self,
        compiled: &mut Rule,
        rule: &api::HttpRouteRules,
        snapshot: &Snapshot,
        restrictions: &Restrictions<'_>,
    ) {
        let mut attached = Vec::new();
        let of_route = restrictions.of_rule(self.key, self.object, rule);
        let of_route = of_route.map(|(policy, level)| (policy, Target::Rule, Some(level)));
        let references = rule.backend_refs.iter().flatten().map(Reference::of_backend);
        let of_backends = references.flat_map(|it| restrictions.of_backend(snapshot, self.key, it));
        for (policy, target, level) in of_route.chain(of_backends.map(|it| (it, Target::Backend, None))) {
            policies_entry(&mut self.policies, policy, target);
            if compiled.closed_by.is_none() {
                compiled.closed_by = policy.closes(target);
            }
            attached.extend(level.and_then(|level| policy.attached(level)));
        }
        let (access, replaced) = Access::merge(attached);
        compiled.access = access;
        let target = format!("HTTPRoute {}", compiled.origin);
        for Replaced { field, policy, older } in replaced {
            let problem = PolicyProblem::replaced(&target, field, older);
            self.policies.entry(policy.clone()).or_default().push(problem);
        }
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
    target: Target,
) -> &'p mut Vec<PolicyProblem> {
    let of_policy = policies.entry(policy.key.clone()).or_default();
    for problem in policy.problems(target) {
        if !of_policy.contains(&problem) {
            of_policy.push(problem);
        }
    }
    of_policy
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
    let (origin, access) = (origin.to_owned(), Access::default());
    Ok((matches, Rule { origin, filters, backends, timeouts, retry, closed_by: None, access, quotas: None }))
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
