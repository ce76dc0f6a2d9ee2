//! What policies target.

use std::collections::BTreeMap;

use forebay_resources::{
    ANY_GROUP, AgentgatewayPolicy, ObjectKey, PolicyTargetRef, PolicyTargetSelector, Snapshot,
};

use crate::names::GATEWAY_GROUP;

/// How precisely a policy names its target. The more precise level has precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// A Gateway or an HTTPRoute.
    Object,
    /// A listener or a rule.
    Section,
}

/// How a policy targets a listener: by its Gateway, which is in the namespace of the policy, or by its name.
pub(super) fn listener_level(
    snapshot: &Snapshot,
    policy: &AgentgatewayPolicy,
    key: &ObjectKey,
    gateway: &ObjectKey,
    listener: &str,
) -> Option<Level> {
    if key.namespace != gateway.namespace {
        return None;
    }
    let object = snapshot.gateways.get(gateway);
    let labels = object.and_then(|object| object.metadata.labels.as_ref());
    target_level(policy, (GATEWAY_GROUP, "Gateway"), &gateway.name, labels, |section| section == listener)
}

/// How a policy targets an object of its own namespace, by name or by labels. `None` if it does not.
pub(super) fn target_level(
    policy: &AgentgatewayPolicy,
    (group, kind): (&str, &str),
    name: &str,
    labels: Option<&BTreeMap<String, String>>,
    is_section: impl Fn(&str) -> bool,
) -> Option<Level> {
    let by_labels = |selector: &PolicyTargetSelector| {
        let has = |(label, value)| labels.is_some_and(|labels| labels.get(label) == Some(value));
        let is_it = is_group(&selector.group, group)
            && selector.kind == kind
            && selector.match_labels.iter().all(has);
        is_it.then(|| level(selector.section_name.as_deref(), &is_section)).flatten()
    };
    let named = level_by_name(&policy.spec.target_refs, (group, kind), name, &is_section);
    named.into_iter().chain(policy.spec.target_selectors.iter().filter_map(by_labels)).max()
}

/// How references name an object. `None` if none of them does.
pub(super) fn level_by_name(
    references: &[PolicyTargetRef],
    (group, kind): (&str, &str),
    name: &str,
    is_section: impl Fn(&str) -> bool,
) -> Option<Level> {
    let by_name = |target: &PolicyTargetRef| {
        let is_it = is_group(&target.group, group) && target.kind == kind && target.name == name;
        is_it.then(|| level(target.section_name.as_deref(), &is_section)).flatten()
    };
    references.iter().filter_map(by_name).max()
}

fn is_group(of_target: &str, group: &str) -> bool {
    of_target == group || of_target == ANY_GROUP
}

fn level(section: Option<&str>, is_section: impl Fn(&str) -> bool) -> Option<Level> {
    match section {
        None => Some(Level::Object),
        Some(section) => is_section(section).then_some(Level::Section),
    }
}
