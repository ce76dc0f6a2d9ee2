//! Status conditions (Kubernetes API conventions).

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::condition::ConditionStatus;

/// A condition to write.
pub(super) struct Condition<'a> {
    pub(super) kind: &'static str,
    pub(super) state: &'a ConditionStatus,
}

/// Merges `conditions` into `current`. `lastTransitionTime` changes only with the status. Conditions of other types are
/// kept, except the types in `ours`, which only this controller writes: they are removed if they are not given.
pub(super) fn merge(
    current: Option<&Value>,
    generation: Option<i64>,
    ours: &[&str],
    conditions: &[Condition<'_>],
) -> Value {
    let current = current.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let of_kind = |kind: &str| current.iter().find(|it| it.get("type").is_some_and(|it| it == kind));
    let mut merged: Vec<Value> =
        conditions.iter().map(|condition| one(of_kind(condition.kind), generation, condition)).collect();
    merged.extend(
        current
            .iter()
            .filter(|it| {
                let kind = it.get("type").and_then(Value::as_str).unwrap_or_default();
                !ours.contains(&kind) && conditions.iter().all(|condition| condition.kind != kind)
            })
            .cloned(),
    );
    Value::Array(merged)
}

fn one(current: Option<&Value>, generation: Option<i64>, condition: &Condition<'_>) -> Value {
    let status = if condition.state.is_true { "True" } else { "False" };
    // A new reason or message does not change the time.
    let since = current
        .filter(|current| current.get("status").is_some_and(|it| it == status))
        .and_then(|current| current.get("lastTransitionTime"))
        .filter(|since| since.is_string())
        .cloned()
        .unwrap_or_else(|| json!(now()));
    let mut value = json!({
        "type": condition.kind,
        "status": status,
        "reason": condition.state.reason,
        "message": condition.state.message,
        "lastTransitionTime": since,
    });
    if let Some(generation) = generation {
        value["observedGeneration"] = json!(generation);
    }
    value
}

/// RFC 3339 with whole seconds, the precision of the API server.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_changes_only_with_the_status() {
        let current = json!([
            { "type": "Accepted", "status": "True", "reason": "Old", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z" },
            { "type": "Mine", "status": "True", "reason": "Gone", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z" },
            { "type": "example.com/Theirs", "status": "True" },
        ]);
        let (yes, no) = (ConditionStatus::met("Accepted"), ConditionStatus::unmet("Invalid", "why"));
        let merged = |state: &ConditionStatus| {
            merge(Some(&current), Some(3), &["Accepted", "Mine"], &[Condition { kind: "Accepted", state }])
        };
        let same = merged(&yes);
        assert_eq!(same[0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!((&same[0]["reason"], &same[0]["observedGeneration"]), (&json!("Accepted"), &json!(3)));
        assert_eq!(same.as_array().unwrap().len(), 2);
        assert_eq!(same[1], current[2], "others' conditions stay");
        let other = merged(&no);
        assert_ne!(other[0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!((&other[0]["status"], &other[0]["message"]), (&json!("False"), &json!("why")));
    }
}
