//! AgentgatewayPolicies with fields that this gateway does not apply. What a policy targets is closed if one of these
//! fields restricts access.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_resources::{
    AgentgatewayPolicy, HttpRoute, ObjectKey, PolicyTargetRef, PolicyTargetSelector, Snapshot,
};
use gateway_api::experimental::httproutes as api;
use serde_json::Value;

use super::policies::{PolicyEffect, PolicyProblem};
use super::reference::Reference;
use crate::names::{GATEWAY_GROUP, POOL_GROUP, POOL_KIND};

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
pub(super) struct Unsupported {
    /// Requests that they would check are rejected.
    pub(super) restricting: Vec<String>,
    /// They have no effect.
    pub(super) decorating: Vec<String>,
}

impl Unsupported {
    pub(super) fn of(policy: &AgentgatewayPolicy) -> Self {
        let mut unsupported = Self::default();
        let spec = &policy.spec;
        if let Some(traffic) = &spec.traffic {
            unsupported.add("traffic", &traffic.other, &DECORATING_TRAFFIC);
        }
        for (section, decorating) in [("frontend", &DECORATING_FRONTEND), ("backend", &DECORATING_BACKEND)] {
            let Some(Value::Object(fields)) = spec.other.get(section) else { continue };
            let mut fields: BTreeMap<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            if let Some(Value::Object(ai)) = fields.remove("ai") {
                let list = if ai.get(PROMPT_GUARD).is_some_and(|guard| !guard.is_null()) {
                    &mut unsupported.restricting
                } else {
                    &mut unsupported.decorating
                };
                list.push(format!("{section}.ai"));
            }
            unsupported.add(section, &fields, decorating);
        }
        unsupported
    }

    fn add(&mut self, section: &str, fields: &BTreeMap<String, Value>, decorating: &[&str]) {
        for name in fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name) {
            let is_decorating = decorating.contains(&name.as_str());
            let list = if is_decorating { &mut self.decorating } else { &mut self.restricting };
            list.push(format!("{section}.{name}"));
        }
    }

    /// One problem per field. Restricting fields come first.
    pub(super) fn problems(&self) -> impl Iterator<Item = PolicyProblem> {
        let restricting = self.restricting.iter().map(|field| PolicyProblem {
            effect: PolicyEffect::Closes,
            message: format!(
                "{field} is not supported; what the policy targets is closed: requests get status 403"
            ),
        });
        restricting.chain(self.decorating.iter().map(|field| PolicyProblem {
            effect: PolicyEffect::Ignored,
            message: format!("{field} is not supported and has no effect"),
        }))
    }
}

/// A policy with fields that are not applied.
#[derive(Debug)]
pub(super) struct Restriction<'a> {
    pub(super) key: &'a ObjectKey,
    policy: &'a AgentgatewayPolicy,
    unsupported: Unsupported,
}

/// All policies with fields that are not applied to some of their targets.
#[derive(Debug, Default)]
pub(super) struct Restrictions<'a>(Vec<Restriction<'a>>);

impl<'a> Restrictions<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let restrictions = snapshot.agentgateway_policies.iter().filter_map(|(key, policy)| {
            let restriction = Restriction { key, policy, unsupported: Unsupported::of(policy) };
            (!restriction.problems_of_rule().is_empty()).then_some(restriction)
        });
        Self(restrictions.collect())
    }

    /// Why no request to the listener is answered.
    pub(super) fn of_listener(
        &self,
        snapshot: &Snapshot,
        gateway: &ObjectKey,
        listener: &str,
    ) -> Option<Arc<str>> {
        let targets =
            |it: &&Restriction<'_>| targets_listener(snapshot, it.policy, it.key, gateway, listener);
        self.0.iter().filter(|it| it.closes()).find(targets).map(Restriction::reason)
    }

    /// The policies that target the rule: its route, or one of the rule's backends.
    pub(super) fn of_rule(
        &self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        route: &HttpRoute,
        rule: &api::HttpRouteRules,
    ) -> impl Iterator<Item = &Restriction<'a>> {
        self.0.iter().filter(|it| {
            let of_route = it.key.namespace == key.namespace
                && targets(
                    it.policy,
                    (GATEWAY_GROUP, "HTTPRoute"),
                    &key.name,
                    route.metadata.labels.as_ref(),
                    |section| rule.name.as_deref() == Some(section),
                );
            of_route
                || rule
                    .backend_refs
                    .iter()
                    .flatten()
                    .any(|reference| it.targets_backend(snapshot, key, Reference::of_backend(reference)))
        })
    }

    /// The policies that target a backend which the route names.
    pub(super) fn of_backend(
        &self,
        snapshot: &Snapshot,
        route: &ObjectKey,
        reference: Reference<'_>,
    ) -> impl Iterator<Item = &Restriction<'a>> {
        self.0.iter().filter(move |it| it.targets_backend(snapshot, route, reference))
    }
}

impl Restriction<'_> {
    /// Shown to clients and in the log.
    pub(super) fn reason(&self) -> Arc<str> {
        format!("AgentgatewayPolicy {}: {}", self.key, self.unsupported.restricting.join(", ")).into()
    }

    /// Whether what the policy targets is closed.
    pub(super) fn closes(&self) -> bool {
        !self.unsupported.restricting.is_empty()
    }

    /// What is not applied to a route or a backend.
    pub(super) fn problems_of_rule(&self) -> Vec<PolicyProblem> {
        let transforms = self.policy.spec.traffic.as_ref().is_some_and(|it| it.transformation.is_some());
        let transformation = transforms.then(|| PolicyProblem {
            effect: PolicyEffect::Ignored,
            message: "traffic.transformation is supported on Gateways only and has no effect here".into(),
        });
        self.unsupported.problems().chain(transformation).collect()
    }

    /// What a policy that [closes](Self::closes) a backend means for copies to it.
    pub(super) fn problem_of_mirror(rule: &str) -> PolicyProblem {
        let message = format!("copies of the requests of HTTPRoute {rule} (RequestMirror) are not sent");
        PolicyProblem { effect: PolicyEffect::Closes, message }
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
        self.key.namespace == backend.namespace && targets(self.policy, kind, &backend.name, labels, |_| true)
    }
}

/// A policy targets a Gateway of its own namespace, or one listener of it.
pub(super) fn targets_listener(
    snapshot: &Snapshot,
    policy: &AgentgatewayPolicy,
    key: &ObjectKey,
    gateway: &ObjectKey,
    listener: &str,
) -> bool {
    let object = snapshot.gateways.get(gateway);
    let labels = object.and_then(|object| object.metadata.labels.as_ref());
    key.namespace == gateway.namespace
        && targets(policy, (GATEWAY_GROUP, "Gateway"), &gateway.name, labels, |section| section == listener)
}

/// Whether the policy targets an object of its own namespace, by name or by labels.
fn targets(
    policy: &AgentgatewayPolicy,
    (group, kind): (&str, &str),
    name: &str,
    labels: Option<&BTreeMap<String, String>>,
    is_section: impl Fn(&str) -> bool,
) -> bool {
    let is_in_section = |section: &Option<String>| section.as_deref().is_none_or(&is_section);
    let by_name = |target: &PolicyTargetRef| {
        target.group == group
            && target.kind == kind
            && target.name == name
            && is_in_section(&target.section_name)
    };
    let by_labels = |selector: &PolicyTargetSelector| {
        selector.group == group
            && selector.kind == kind
            && is_in_section(&selector.section_name)
            && selector
                .match_labels
                .iter()
                .all(|(label, value)| labels.is_some_and(|labels| labels.get(label) == Some(value)))
    };
    policy.spec.target_refs.iter().any(by_name) || policy.spec.target_selectors.iter().any(by_labels)
}
