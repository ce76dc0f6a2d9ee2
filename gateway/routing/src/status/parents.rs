//! Statuses with one entry per parent and controller: HTTPRoutes, InferencePools, and AgentgatewayPolicies (whose parents are
//! called ancestors).

use std::collections::BTreeMap;

use forebay_resources::ObjectKey;
use serde_json::{Value, json};

use super::conditions::{Condition, merge};
use crate::compile::{ParentReport, PolicyReport, PoolReport};
use crate::condition::{ConditionStatus, kind};
use crate::names::CONTROLLER_NAME;

/// Names and maximum length of such a list.
pub(super) struct List {
    name: &'static str,
    parent: &'static str,
    max_entries: usize,
}

const PARENTS: List = List { name: "parents", parent: "parentRef", max_entries: 32 };
pub(super) const ANCESTORS: List = List { name: "ancestors", parent: "ancestorRef", max_entries: 16 };

/// Condition types that this controller writes.
const CONDITIONS: [&str; 8] = [
    "Accepted",
    "Attached",
    "Counted",
    "PartiallyInvalid",
    "ResolvedRefs",
    kind::NO_READY_PODS,
    kind::PICKER_UNAVAILABLE,
    kind::SELECTOR_OVERLAP,
];

/// The entry for one parent.
pub(super) struct Entry<'a> {
    pub(super) parent: Value,
    pub(super) conditions: Vec<(&'static str, &'a ConditionStatus)>,
}

/// Status of an HTTPRoute.
pub fn route_status(generation: Option<i64>, parents: &[ParentReport], current: &Value) -> Value {
    let entries = parents.iter().map(|report| {
        let mut conditions = vec![("Accepted", &report.accepted), ("ResolvedRefs", &report.resolved_refs)];
        conditions.extend(report.partially_invalid.iter().map(|state| ("PartiallyInvalid", state)));
        Entry { parent: serde_json::to_value(&report.parent).unwrap_or_default(), conditions }
    });
    with_entries(&PARENTS, entries.collect(), generation, current)
}

/// Status of an InferencePool. `report` is `None` if no Gateway of this controller uses the pool.
pub fn pool_status(generation: Option<i64>, report: Option<&PoolReport>, current: &Value) -> Value {
    let entries = report.into_iter().flat_map(|report| {
        report.parents.iter().map(|(gateway, accepted)| {
            let mut conditions = vec![("Accepted", accepted), ("ResolvedRefs", &report.resolved_refs)];
            conditions.extend(report.problems.iter().map(|problem| (problem.kind, &problem.status)));
            Entry { parent: reference(gateway), conditions }
        })
    });
    with_entries(&PARENTS, entries.collect(), generation, current)
}

/// Status of an AgentgatewayPolicy: condition `Accepted` by Gateway.
pub fn policy_status(
    generation: Option<i64>,
    gateways: Option<&BTreeMap<ObjectKey, PolicyReport>>,
    current: &Value,
) -> Value {
    let accepted: Vec<(&ObjectKey, ConditionStatus)> =
        gateways.into_iter().flatten().map(|(gateway, report)| (gateway, report.accepted())).collect();
    let entries = accepted.iter().map(|(gateway, accepted)| Entry {
        parent: reference(gateway),
        conditions: vec![("Accepted", accepted)],
    });
    with_entries(&ANCESTORS, entries.collect(), generation, current)
}

/// Whether an entry belongs to this controller.
pub fn has_ours(status: &Value) -> bool {
    [PARENTS, ANCESTORS]
        .iter()
        .any(|list| status.get(list.name).and_then(Value::as_array).into_iter().flatten().any(is_ours))
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").is_some_and(|name| name == CONTROLLER_NAME)
}

pub(super) fn reference(gateway: &ObjectKey) -> Value {
    json!({
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": gateway.name,
        "namespace": gateway.namespace,
    })
}

/// Keeps entries of other controllers. Entries of this controller become exactly `entries`; existing ones keep their
/// position.
pub(super) fn with_entries(
    list: &List,
    mut entries: Vec<Entry<'_>>,
    generation: Option<i64>,
    current: &Value,
) -> Value {
    let existing = current.get(list.name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut parents = Vec::new();
    for entry in existing {
        if !is_ours(entry) {
            parents.push(entry.clone());
        } else if let Some(at) =
            entries.iter().position(|ours| is_same_parent(&ours.parent, entry.get(list.parent)))
        {
            // Keeps the existing reference, in which the API server may have set defaults.
            let ours = Entry { parent: entry[list.parent].clone(), ..entries.remove(at) };
            parents.push(one(list, &ours, generation, entry.get("conditions")));
        }
    }
    parents.extend(entries.iter().map(|ours| one(list, ours, generation, None)));
    parents.truncate(list.max_entries);
    json!({ list.name: parents })
}

fn one(list: &List, entry: &Entry<'_>, generation: Option<i64>, existing: Option<&Value>) -> Value {
    let conditions: Vec<Condition<'_>> =
        entry.conditions.iter().map(|(kind, state)| Condition { kind, state }).collect();
    json!({
        list.parent: entry.parent,
        "controllerName": CONTROLLER_NAME,
        "conditions": merge(existing, generation, &CONDITIONS, &conditions),
    })
}

fn is_same_parent(ours: &Value, theirs: Option<&Value>) -> bool {
    let Some(theirs) = theirs else { return false };
    let field = |parent: &Value, name: &str, default: &str| {
        parent.get(name).cloned().filter(|it| !it.is_null()).unwrap_or_else(|| json!(default))
    };
    [
        ("group", "gateway.networking.k8s.io"),
        ("kind", "Gateway"),
        ("namespace", ""),
        ("name", ""),
        ("sectionName", ""),
        ("port", ""),
    ]
    .iter()
    .all(|(name, default)| field(ours, name, default) == field(theirs, name, default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_only_its_own_entries() {
        let theirs =
            json!({ "parentRef": { "name": "x" }, "controllerName": "example.com/other", "conditions": [] });
        let stale = json!({ "parentRef": { "name": "gone", "namespace": "infra" }, "controllerName": CONTROLLER_NAME, "conditions": [] });
        let known = json!({
            "parentRef": { "name": "public", "namespace": "infra" },
            "controllerName": CONTROLLER_NAME,
            "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": "2020-01-01T00:00:00Z", "observedGeneration": 1,
            }],
        });
        let report = PoolReport {
            parents: BTreeMap::from([(ObjectKey::new("infra", "public"), ConditionStatus::met("Accepted"))]),
            resolved_refs: ConditionStatus::met("ResolvedRefs"),
            problems: Vec::new(),
        };
        let current = json!({ "parents": [stale, theirs, known] });
        let status = pool_status(Some(2), Some(&report), &current);
        let parents = status["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 2);
        assert_eq!(parents[0], theirs);
        assert_eq!(parents[1]["parentRef"], known["parentRef"], "group and kind are as they were");
        let accepted = &parents[1]["conditions"][0];
        assert_eq!(accepted["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(accepted["observedGeneration"], 2);

        let again = pool_status(Some(2), Some(&report), &status);
        assert_eq!(again, status, "nothing is left to be written");
        assert_eq!(pool_status(Some(2), None, &status), json!({ "parents": [theirs] }));
    }
}
