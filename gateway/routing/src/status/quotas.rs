//! The status of Quotas.

use forebay_resources::ObjectKey;
use serde_json::{Value, json};

use super::parents::{ANCESTORS, Entry, reference, with_entries};
use crate::compile::{MissingTarget, QuotaFacts, QuotaReport};
use crate::condition::{ConditionStatus, reason};

/// Where what was used of quotas is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaCounting {
    /// In a store that all gateways share.
    Store,
    /// In each gateway, for its share of each limit.
    PerReplica {
        /// Gateways that are ready.
        gateways: u64,
    },
}

impl Default for QuotaCounting {
    fn default() -> Self {
        Self::PerReplica { gateways: 1 }
    }
}

/// Status of a Quota by Gateway: conditions `Accepted`, and `Attached` and `Counted` if it is valid.
pub fn quota_status(
    generation: Option<i64>,
    report: &QuotaReport<'_>,
    counting: QuotaCounting,
    current: &Value,
) -> Value {
    let counted = report.facts.map(|facts| counted(facts, counting));
    let attached = report.facts.map(attached);
    let accepted: Vec<(&ObjectKey, ConditionStatus)> =
        report.gateways.into_iter().flatten().map(|(gateway, report)| (gateway, report.accepted())).collect();
    let missing: Vec<ConditionStatus> = report.missing.iter().map(not_found).collect();
    let of_gateways = accepted.iter().map(|(gateway, accepted)| {
        let mut conditions = vec![("Accepted", accepted)];
        if accepted.is_true {
            conditions.extend(attached.iter().map(|it| ("Attached", it)));
            conditions.extend(counted.iter().map(|it| ("Counted", it)));
        }
        Entry { parent: reference(gateway), conditions }
    });
    let of_missing = report.missing.iter().zip(&missing).map(|(target, state)| Entry {
        parent: missing_reference(target),
        conditions: vec![("Accepted", state), ("Attached", state)],
    });
    with_entries(&ANCESTORS, of_gateways.chain(of_missing).collect(), generation, current)
}

fn attached(facts: QuotaFacts) -> ConditionStatus {
    if facts.selects_no_key {
        let message = "callers.keySelector selects none of the API keys that are accepted at its targets: it limits no request";
        return ConditionStatus::unmet(reason::NO_KEYS, message);
    }
    ConditionStatus::met(reason::ATTACHED)
}

fn counted(facts: QuotaFacts, counting: QuotaCounting) -> ConditionStatus {
    let (reason, message) = match counting {
        QuotaCounting::Store => (reason::STORE, "in the store, for all gateways together".to_owned()),
        QuotaCounting::PerReplica { gateways: 1 } => (reason::PER_REPLICA, "by 1 gateway".to_owned()),
        QuotaCounting::PerReplica { gateways } => {
            let few = match facts.smallest {
                amount if amount < u128::from(gateways) => {
                    format!("; of the smallest limit, {amount} of them admit 1 and the others nothing")
                }
                _ => String::new(),
            };
            let message = format!("each of {gateways} gateways admits 1/{gateways} of each limit{few}");
            (reason::PER_REPLICA, message)
        }
    };
    ConditionStatus { is_true: true, reason, message }
}

fn not_found(target: &MissingTarget) -> ConditionStatus {
    let MissingTarget { kind, key, listener } = target;
    let message = match listener {
        Some(listener) => format!("the {kind} {key} has no listener {listener}"),
        None => format!("the {kind} {key} does not exist"),
    };
    ConditionStatus::unmet(reason::TARGET_NOT_FOUND, message)
}

fn missing_reference(target: &MissingTarget) -> Value {
    let mut reference = reference(&target.key);
    reference["kind"] = json!(target.kind);
    if let Some(listener) = &target.listener {
        reference["sectionName"] = json!(listener);
    }
    reference
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compile::PolicyReport;

    #[test]
    fn a_quota_says_where_it_is_counted_and_whether_it_limits_anything() {
        let gateways = BTreeMap::from([(ObjectKey::new("infra", "public"), PolicyReport::default())]);
        let condition = |smallest, selects_no_key, counting, at: usize| {
            let facts = Some(QuotaFacts { smallest, selects_no_key });
            let report = QuotaReport { gateways: Some(&gateways), facts, missing: &[] };
            let status = quota_status(Some(1), &report, counting, &Value::Null);
            let condition = &status["ancestors"][0]["conditions"][at];
            ["type", "status", "reason", "message"].map(|name| condition[name].as_str().unwrap().to_owned())
        };
        let per = |gateways| QuotaCounting::PerReplica { gateways };
        for (smallest, counting, expected) in [
            (2, QuotaCounting::Store, ["Store", "in the store, for all gateways together"]),
            (2, per(1), ["PerReplica", "by 1 gateway"]),
            (3, per(3), ["PerReplica", "each of 3 gateways admits 1/3 of each limit"]),
            (
                2,
                per(3),
                [
                    "PerReplica",
                    "each of 3 gateways admits 1/3 of each limit; of the smallest limit, 2 of them admit 1 and the others nothing",
                ],
            ),
        ] {
            let [kind, status, reason, message] = condition(smallest, false, counting, 2);
            assert_eq!((kind.as_str(), status.as_str()), ("Counted", "True"));
            assert_eq!([reason, message], expected);
        }
        assert_eq!(condition(1, false, per(1), 1)[..3], ["Attached", "True", "Attached"]);
        assert_eq!(condition(1, true, per(1), 1)[..3], ["Attached", "False", "NoKeys"]);
    }

    #[test]
    fn a_target_that_does_not_exist_is_an_ancestor() {
        let target = |listener: Option<&str>| MissingTarget {
            kind: "Gateway",
            key: ObjectKey::new("infra", "public"),
            listener: listener.map(str::to_owned),
        };
        let missing = [target(None), target(Some("https"))];
        let report = QuotaReport { gateways: None, facts: None, missing: &missing };
        let status = quota_status(Some(1), &report, QuotaCounting::default(), &Value::Null);
        for (at, section, message) in [
            (0, Value::Null, "the Gateway infra/public does not exist"),
            (1, json!("https"), "the Gateway infra/public has no listener https"),
        ] {
            let entry = &status["ancestors"][at];
            assert_eq!(entry["ancestorRef"]["sectionName"], section);
            for condition in entry["conditions"].as_array().unwrap() {
                assert_eq!(
                    (&condition["status"], &condition["reason"]),
                    (&json!("False"), &json!("TargetNotFound"))
                );
                assert_eq!(condition["message"], message);
            }
        }
        assert_eq!(quota_status(Some(1), &report, QuotaCounting::default(), &status), status);
    }
}
