//! AgentgatewayPolicies that restrict access, and those with fields that this gateway does not apply. What a policy
//! targets is closed if one of these fields restricts access.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_resources::{AgentgatewayPolicy, HttpRoute, ObjectKey, Snapshot, TrafficPhase};
use gateway_api::experimental::httproutes as api;
use serde_json::Value;

use super::access::{self, Attached, PolicyAccess};
use super::policies::{PolicyEffect, PolicyProblem};
use super::reference::Reference;
use super::targets::{Level, listener_level, target_level};
use crate::names::{GATEWAY_GROUP, POOL_GROUP, POOL_KIND};
use crate::table::PolicyLimits;

/// Fields of `spec.traffic` that change requests or responses and do not restrict access. All other fields count as
/// restricting, also those that a later version of the API adds.
const DECORATING_TRAFFIC: [&str; 7] =
    ["buffer", "cors", "delay", "headerModifiers", "hostRewrite", "retry", "timeouts"];
const DECORATING_FRONTEND: [&str; 8] =
    ["accessLog", "connect", "http", "metrics", "proxyProtocol", "tcp", "tls", "tracing"];
const DECORATING_BACKEND: [&str; 8] =
    ["auth", "health", "http", "tcp", "tls", "transformation", "transformations", "tunnel"];
/// Field of `spec.backend.ai` that rejects prompts.
const PROMPT_GUARD: &str = "promptGuard";

/// Fields of a policy that are not supported, as paths below `spec`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unsupported {
    /// Requests that they would check are rejected.
    restricting: Vec<Restricting>,
    /// They have no effect.
    decorating: Vec<String>,
}

/// A field that restricts access and is not enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Restricting {
    /// Shown to clients.
    field: String,
    /// Shown to operators, with the field.
    why: String,
}

impl Restricting {
    fn unsupported(field: String) -> Self {
        Self { why: format!("{field} is not supported"), field }
    }
}

impl Unsupported {
    fn of(policy: &AgentgatewayPolicy) -> (Self, access::Parsed) {
        let mut unsupported = Self::default();
        let spec = &policy.spec;
        if let Some(traffic) = &spec.traffic {
            let mut fields = traffic.other.clone();
            fields.retain(|name, _| !access::FIELDS.contains(&name.as_str()));
            unsupported.add("traffic", &fields, &DECORATING_TRAFFIC);
        }
        let parsed = access::parse(policy).unwrap_or_else(|failed| {
            unsupported.restricting.extend(failed.into_iter().map(|(field, why)| Restricting { field, why }));
            access::Parsed::default()
        });
        for (section, decorating) in [("frontend", &DECORATING_FRONTEND), ("backend", &DECORATING_BACKEND)] {
            let Some(Value::Object(fields)) = spec.other.get(section) else { continue };
            let mut fields: BTreeMap<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            if let Some(Value::Object(ai)) = fields.remove("ai") {
                let field = format!("{section}.ai");
                if ai.get(PROMPT_GUARD).is_some_and(|guard| !guard.is_null()) {
                    unsupported.restricting.push(Restricting::unsupported(field));
                } else {
                    unsupported.decorating.push(field);
                }
            }
            unsupported.add(section, &fields, decorating);
        }
        (unsupported, parsed)
    }

    fn add(&mut self, section: &str, fields: &BTreeMap<String, Value>, decorating: &[&str]) {
        for name in fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name) {
            let field = format!("{section}.{name}");
            if decorating.contains(&name.as_str()) {
                self.decorating.push(field);
            } else {
                self.restricting.push(Restricting::unsupported(field));
            }
        }
    }
}

/// What a policy is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A Gateway or a listener.
    Listener,
    /// An HTTPRoute or a rule.
    Rule,
    /// An InferencePool or a Service.
    Backend,
}

/// A policy that restricts access, or has fields that are not applied.
#[derive(Debug)]
pub(super) struct Restriction<'a> {
    pub(super) key: &'a ObjectKey,
    policy: &'a AgentgatewayPolicy,
    unsupported: Unsupported,
    access: PolicyAccess,
}

/// All policies with a restriction, or with fields that are not applied to some of their targets.
#[derive(Debug, Default)]
pub(super) struct Restrictions<'a> {
    restrictions: Vec<Restriction<'a>>,
    limits: Vec<Arc<PolicyLimits>>,
}

impl<'a> Restrictions<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut limits = Vec::new();
        let restrictions = snapshot.agentgateway_policies.iter().filter_map(|(key, policy)| {
            let (unsupported, parsed) = Unsupported::of(policy);
            let access = PolicyAccess::new(snapshot, key, parsed, &mut limits);
            let restriction = Restriction { key, policy, unsupported, access };
            (!restriction.access.is_empty() || !restriction.problems(Target::Rule).is_empty())
                .then_some(restriction)
        });
        let restrictions = restrictions.collect();
        Self { restrictions, limits }
    }

    /// The rate limits of all policies.
    pub(super) fn into_limits(self) -> Vec<Arc<PolicyLimits>> {
        self.limits
    }

    /// The policies that target the listener.
    pub(super) fn of_listener(
        &self,
        snapshot: &Snapshot,
        gateway: &ObjectKey,
        listener: &str,
    ) -> impl Iterator<Item = (&Restriction<'a>, Level)> {
        self.restrictions.iter().filter_map(move |it| {
            let level = listener_level(snapshot, it.policy, it.key, gateway, listener)?;
            Some((it, level))
        })
    }

    /// The policies that target the rule, or its route.
    pub(super) fn of_rule(
        &self,
        key: &ObjectKey,
        route: &HttpRoute,
        rule: &api::HttpRouteRules,
    ) -> impl Iterator<Item = (&Restriction<'a>, Level)> {
        self.restrictions.iter().filter(|it| it.key.namespace == key.namespace).filter_map(|it| {
            let level = target_level(
                it.policy,
                (GATEWAY_GROUP, "HTTPRoute"),
                &key.name,
                route.metadata.labels.as_ref(),
                |section| rule.name.as_deref() == Some(section),
            )?;
            Some((it, level))
        })
    }

    /// The policies that target a backend which the route names.
    pub(super) fn of_backend(
        &self,
        snapshot: &Snapshot,
        route: &ObjectKey,
        reference: Reference<'_>,
    ) -> impl Iterator<Item = &Restriction<'a>> {
        self.restrictions.iter().filter(move |it| it.targets_backend(snapshot, route, reference))
    }
}

impl Restriction<'_> {
    /// Shown to clients and in the log. `None` if the target stays open.
    pub(super) fn closes(&self, target: Target) -> Option<Arc<str>> {
        let fields: Vec<String> = self.restricting(target).into_iter().map(|it| it.field).collect();
        let reason = || format!("AgentgatewayPolicy {}: {}", self.key, fields.join(", ")).into();
        (!fields.is_empty()).then(reason)
    }

    /// What is not applied to the target. What closes it comes first.
    pub(super) fn problems(&self, target: Target) -> Vec<PolicyProblem> {
        let closing = self.restricting(target).into_iter().map(|it| PolicyProblem {
            effect: PolicyEffect::Closes,
            message: format!("{}; what the policy targets is closed: requests get status 403", it.why),
        });
        let ignored = |message| PolicyProblem { effect: PolicyEffect::Ignored, message };
        let decorating = self.unsupported.decorating.iter();
        let decorating =
            decorating.map(|field| ignored(format!("{field} is not supported and has no effect")));
        let transforms = self.policy.spec.traffic.as_ref().is_some_and(|it| it.transformation.is_some());
        let transformation = (transforms && target != Target::Listener).then(|| {
            ignored("traffic.transformation is supported on Gateways only and has no effect here".into())
        });
        let keys = self.access.problems.iter().cloned();
        closing.chain(decorating).chain(transformation).chain(keys).collect()
    }

    /// What it requires of the requests to a target. `None` if that is nothing.
    pub(super) fn attached(&self, level: Level) -> Option<Attached<'_>> {
        let (key, policy, access) = (self.key, self.policy, &self.access);
        (!access.is_empty()).then_some(Attached { level, key, policy, access })
    }

    pub(super) fn phase(&self) -> TrafficPhase {
        self.policy.spec.traffic.as_ref().map(|it| it.phase).unwrap_or_default()
    }

    /// What a policy that [closes](Self::closes) a backend means for copies to it.
    pub(super) fn problem_of_mirror(rule: &str) -> PolicyProblem {
        let message = format!("copies of the requests of HTTPRoute {rule} (RequestMirror) are not sent");
        PolicyProblem { effect: PolicyEffect::Closes, message }
    }

    /// What is not enforced at the target.
    fn restricting(&self, target: Target) -> Vec<Restricting> {
        let mut restricting = self.unsupported.restricting.clone();
        let why = match (target, self.phase()) {
            (Target::Backend, _) => "is supported on Gateways and HTTPRoutes only",
            (Target::Rule, TrafficPhase::PreRouting) => {
                "has the phase PreRouting, which is for Gateways only"
            }
            _ => return restricting,
        };
        restricting.extend(self.access.fields().map(|field| Restricting {
            field: format!("traffic.{field}"),
            why: format!("traffic.{field} {why}"),
        }));
        restricting
    }

    fn targets_backend(&self, snapshot: &Snapshot, route: &ObjectKey, reference: Reference<'_>) -> bool {
        let backend = reference.key(&route.namespace);
        let (kind, labels) = if reference.is_to_pool() {
            let pool = snapshot.inference_pools.get(&backend);
            ((POOL_GROUP, POOL_KIND), pool.and_then(|pool| pool.metadata.labels.as_ref()))
        } else {
            let service = snapshot.services.get(&backend);
            (("", "Service"), service.and_then(|service| service.metadata.labels.as_ref()))
        };
        // A section of a backend is a port: which one a request uses is not looked at.
        self.key.namespace == backend.namespace
            && target_level(self.policy, kind, &backend.name, labels, |_| true).is_some()
    }
}
