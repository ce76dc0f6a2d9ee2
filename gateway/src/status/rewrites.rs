//! The status of InferenceModelRewrites: one list of conditions, with no entries of controllers.

use serde_json::{Value, json};

use super::CONTROLLER_NAME;
use super::conditions::{Condition, merge};
use forebay_routing::ConditionStatus;

const ACCEPTED: &str = "Accepted";
/// The reason with which the API server fills the condition in, for whichever controller comes first.
const PENDING: &str = "Pending";

/// Nothing where the condition is not ours to write. It is ours as long as its message begins with our name: the API
/// has no other place for it, and whoever writes another message has taken it over.
///
/// Without a verdict the object is none of ours.
pub(super) fn rewrite_status(
    generation: Option<i64>,
    verdict: Option<&ConditionStatus>,
    current: &Value,
) -> Option<Value> {
    let current = current.get("conditions");
    let accepted = current.and_then(Value::as_array).into_iter().flatten();
    let accepted = accepted.clone().find(|it| it.get("type").is_some_and(|kind| kind == ACCEPTED));
    let is_ours = accepted
        .and_then(|it| it.get("message")?.as_str())
        .is_some_and(|message| message.starts_with(CONTROLLER_NAME));
    let is_free = accepted.is_none_or(|it| it.get("reason").is_some_and(|reason| reason == PENDING));
    let verdict = match verdict {
        Some(verdict) if is_ours || is_free => {
            Some(ConditionStatus { message: signed(&verdict.message), ..verdict.clone() })
        }
        None if is_ours => None,
        _ => return None,
    };
    let conditions: Vec<Condition<'_>> =
        verdict.iter().map(|verdict| Condition { kind: ACCEPTED, verdict }).collect();
    Some(json!({ "conditions": merge(current, generation, &[ACCEPTED], &conditions) }))
}

fn signed(message: &str) -> String {
    if message.is_empty() { CONTROLLER_NAME.to_owned() } else { format!("{CONTROLLER_NAME}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: &str, message: &str) -> Value {
        let condition = json!({
            "type": "Accepted", "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": "2020-01-01T00:00:00Z", "observedGeneration": 1,
        });
        json!({ "conditions": [{ "type": "Other", "status": "True" }, condition] })
    }

    #[test]
    fn a_condition_that_another_has_written_is_left_alone() {
        let verdict = ConditionStatus::unmet("TargetNotFound", "there is no pool");
        let theirs = status("Accepted", "example.com/other has it");
        assert_eq!(rewrite_status(Some(2), Some(&verdict), &theirs), None);
        assert_eq!(rewrite_status(Some(2), None, &theirs), None);
        assert_eq!(rewrite_status(Some(2), None, &Value::Null), None);
        for free in [Value::Null, json!({}), status("Pending", "Waiting for controller")] {
            let written = rewrite_status(Some(2), Some(&verdict), &free).unwrap();
            let accepted = &written["conditions"][0];
            assert_eq!(accepted["message"], "forebay.dev/gateway: there is no pool");
            assert_eq!((&accepted["status"], &accepted["observedGeneration"]), (&json!("False"), &json!(2)));
            assert_eq!(rewrite_status(Some(2), Some(&verdict), &written).as_ref(), Some(&written));
        }
    }

    #[test]
    fn a_condition_of_ours_follows_the_object_and_goes_with_it() {
        let ours = status("Accepted", CONTROLLER_NAME);
        let written = rewrite_status(Some(2), Some(&ConditionStatus::met("Accepted")), &ours).unwrap();
        let accepted = &written["conditions"][0];
        assert_eq!(
            (&accepted["observedGeneration"], &accepted["message"]),
            (&json!(2), &json!(CONTROLLER_NAME))
        );
        assert_eq!(accepted["lastTransitionTime"], "2020-01-01T00:00:00Z");
        let others = json!({ "conditions": [{ "type": "Other", "status": "True" }] });
        assert_eq!(rewrite_status(Some(2), None, &ours), Some(others));
    }
}
