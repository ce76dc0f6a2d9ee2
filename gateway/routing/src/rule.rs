use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_resources::{HttpRoute, ObjectKey};
use gateway_api::experimental::httproutes as api;

use super::backend::{Backends, Resolver};
use super::filters::{Context, Filters};
use super::matching::Match;
use super::report::{Verdict, reason};
use super::retry::RetryPolicy;
use super::timeouts::Timeouts;

/// What is done with the requests that a rule matches.
#[derive(Debug)]
pub struct Rule {
    /// `namespace/name` of the HTTPRoute, and the rule's place in it.
    pub origin: String,
    /// Nothing for rules that do not have any.
    pub filters: Option<Box<Filters>>,
    pub backends: Backends,
    pub timeouts: Timeouts,
    pub retry: Option<RetryPolicy>,
}

/// An HTTPRoute, whichever listeners it will be attached to.
#[derive(Debug)]
pub(super) struct CompiledRoute<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) object: &'a HttpRoute,
    /// With its place among the route's rules.
    pub(super) rules: Vec<(usize, Vec<Match>, Arc<Rule>)>,
    /// InferencePools that are named, there or not.
    pub(super) pools: BTreeSet<ObjectKey>,
    /// Why rules are left out.
    refused: Vec<String>,
    pub(super) resolved_refs: Verdict,
}

impl<'a> CompiledRoute<'a> {
    pub(super) fn new(key: &'a ObjectKey, object: &'a HttpRoute, resolver: &mut Resolver<'_>) -> Self {
        let mut route = Self {
            key,
            object,
            rules: Vec::new(),
            pools: BTreeSet::new(),
            refused: Vec::new(),
            resolved_refs: Verdict::yes(reason::RESOLVED_REFS),
        };
        for (index, rule) in object.spec.rules.iter().flatten().enumerate() {
            let mut resolved = |verdict: Verdict| {
                if route.resolved_refs.holds {
                    let message = format!("rule {index}: {}", verdict.message);
                    route.resolved_refs = Verdict { message, ..verdict };
                }
            };
            let origin = format!("{key} rule {index}");
            match compile(resolver, &key.namespace, rule, origin, &mut resolved, &mut route.pools) {
                Ok((matches, rule)) => route.rules.push((index, matches, Arc::new(rule))),
                Err(why) => route.refused.push(format!("rule {index}: {why}")),
            }
        }
        route
    }

    /// The route's condition `Accepted` as far as it depends on nothing but itself, and `PartiallyInvalid`.
    pub(super) fn validity(&self) -> (Verdict, Option<Verdict>) {
        if self.refused.is_empty() {
            return (Verdict::yes(reason::ACCEPTED), None);
        }
        let message = self.refused.join("; ");
        if self.rules.is_empty() {
            return (Verdict::no(reason::UNSUPPORTED_VALUE, message), None);
        }
        let message = format!("Dropped Rule: {message}");
        let partially = Verdict { holds: true, reason: reason::UNSUPPORTED_VALUE, message };
        (Verdict::yes(reason::ACCEPTED), Some(partially))
    }
}

/// What is not supported keeps the whole rule out: half a rule would send requests where they do not belong.
fn compile(
    resolver: &mut Resolver<'_>,
    namespace: &str,
    rule: &api::HttpRouteRules,
    origin: String,
    unresolved: &mut dyn FnMut(Verdict),
    pools: &mut BTreeSet<ObjectKey>,
) -> Result<(Vec<Match>, Rule), String> {
    let mut matches = rule.matches.iter().flatten().map(Match::parse).collect::<Result<Vec<_>, _>>()?;
    if matches.is_empty() {
        matches.push(Match::everything());
    }
    let filters = match rule.filters.as_deref() {
        None | Some([]) => None,
        Some(filters) => {
            let mut context = Context { resolver, namespace, unresolved, pools };
            Some(Box::new(Filters::of_rule(filters, &mut context)?))
        }
    };
    let timeouts = rule.timeouts.as_ref().map_or(Ok(Timeouts::default()), Timeouts::parse)?;
    let retry = rule.retry.as_ref().map(RetryPolicy::parse).transpose()?;
    let backends = resolver.backends(namespace, rule, unresolved, pools)?;
    Ok((matches, Rule { origin, filters, backends, timeouts, retry }))
}
