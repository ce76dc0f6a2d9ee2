//! What quotas do not reach: targets that do not exist, and selectors that select no key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_resources::{ObjectKey, PolicyTargetRef, Snapshot};

use crate::compile::report::{MissingTarget, QuotaFacts};
use crate::names::{GATEWAY_GROUP, HTTP_ROUTE};
use crate::table::{ListenerPort, PortRoutes, Quota};

/// Of larger sets of API keys it is not checked which ones a quota selects. Metadata that was read takes memory.
const MAX_KEYS: usize = 1000;
/// API keys that are checked for all quotas together.
const MAX_CHECKS: usize = 50_000;

/// The targets that do not exist, by quota.
pub(in crate::compile) fn missing_targets(
    snapshot: &Snapshot,
    class: &str,
) -> BTreeMap<ObjectKey, Vec<MissingTarget>> {
    let mut missing: BTreeMap<ObjectKey, Vec<MissingTarget>> = BTreeMap::new();
    for (key, quota) in &snapshot.quotas {
        for target in quota.spec.targets() {
            let named = ObjectKey::new(&key.namespace, &target.name);
            let Some((kind, listener)) = missing_part(snapshot, class, &named, &target) else { continue };
            let of_quota = missing.entry(key.clone()).or_default();
            let target = MissingTarget { kind, key: named, listener };
            if !of_quota.contains(&target) {
                of_quota.push(target);
            }
        }
    }
    missing
}

/// The kind of a target that does not exist, and its listener if only that is missing.
fn missing_part(
    snapshot: &Snapshot,
    class: &str,
    named: &ObjectKey,
    target: &PolicyTargetRef,
) -> Option<(&'static str, Option<String>)> {
    match (target.group.as_str(), target.kind.as_str()) {
        (GATEWAY_GROUP, "Gateway") => {
            let Some(gateway) = snapshot.gateways.get(named) else { return Some(("Gateway", None)) };
            let section = target.section_name.as_ref()?;
            let is_ours = gateway.spec.gateway_class_name == class;
            let has_it = gateway.spec.listeners.iter().any(|listener| listener.name == *section);
            (is_ours && !has_it).then(|| ("Gateway", Some(section.clone())))
        }
        (GATEWAY_GROUP, HTTP_ROUTE) if !snapshot.http_routes.contains_key(named) => Some((HTTP_ROUTE, None)),
        // Reported as not supported.
        _ => None,
    }
}

/// Facts of the valid quotas. `quotas`: by [`Quota::index`].
pub(in crate::compile) fn quota_facts(
    ports: &BTreeMap<ListenerPort, Arc<PortRoutes>>,
    quotas: &[Arc<Quota>],
) -> BTreeMap<ObjectKey, QuotaFacts> {
    let selecting = selecting(ports);
    let facts = |quota: &Arc<Quota>| {
        let smallest = quota.limits.iter().map(|limit| limit.amount).min().unwrap_or_default();
        let selects_no_key = quota.keys().is_some() && !selecting.contains(&quota.index);
        (quota.key.clone(), QuotaFacts { smallest, selects_no_key })
    };
    quotas.iter().map(facts).collect()
}

/// The quotas that select at least one of the API keys at their targets, or of which it is not known.
fn selecting(ports: &BTreeMap<ListenerPort, Arc<PortRoutes>>) -> BTreeSet<usize> {
    let mut selecting = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut checks = MAX_CHECKS;
    let listeners = ports.values().flat_map(|port| &port.listeners);
    for (quota, authentication) in listeners.flat_map(|listener| listener.quota_keys()) {
        let Some(selector) = quota.keys() else { continue };
        let pair = (quota.index, Arc::as_ptr(authentication).addr());
        if selecting.contains(&quota.index) || !seen.insert(pair) {
            continue;
        }
        let keys = &authentication.keys;
        let is_known = keys.len() <= MAX_KEYS.min(checks);
        if !is_known || keys.all().any(|key| selector.selects_key(key)) {
            selecting.insert(quota.index);
        }
        checks = checks.saturating_sub(keys.len());
    }
    selecting
}
