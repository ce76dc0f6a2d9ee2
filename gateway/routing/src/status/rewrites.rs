//! Status of InferenceModelRewrites: a list of conditions without controller entries.

use serde_json::{Value, json};

use super::conditions::{Condition, merge};
use crate::condition::ConditionStatus;
use crate::names::CONTROLLER_NAME;

const ACCEPTED: &str = "Accepted";
/// The default reason that the API server sets until a controller writes the condition.
const PENDING: &str = "Pending";

/// Status of an InferenceModelRewrite. `None` if another controller owns the condition.
///
/// The API has no field for the controller, so the message starts with the controller name. `state` is `None` if no
/// Gateway of this controller uses the object.
pub fn rewrite_status(
    generation: Option<i64>,
    state: Option<&ConditionStatus>,
    current: &Value,
) -> Option<Value> {
    let current = current.get("conditions");
    let accepted = current.and_then(Value::as_array).into_iter().flatten();
    let accepted = accepted.clone().find(|it| it.get("type").is_some_and(|kind| kind == ACCEPTED));
    let is_ours = accepted
        .and_then(|it| it.get("message")?.as_str())
        .is_some_and(|message| message.starts_with(CONTROLLER_NAME));
    let is_free = accepted.is_none_or(|it| it.get("reason").is_some_and(|reason| reason == PENDING));
    let state = match state {
        Some(state) if is_ours || is_free => {
            Some(ConditionStatus { message: signed(&state.message), ..state.clone() })
        }
        None if is_ours => None,
        _ => return None,
    };
    let conditions: Vec<Condition<'_>> =
        state.iter().map(|state| Condition { kind: ACCEPTED, state }).collect();
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
    fn keeps_conditions_of_other_controllers() {
        let state = ConditionStatus::unmet("TargetNotFound", "there is no pool");
        let theirs = status("Accepted", "example.com/other has it");
        assert_eq!(rewrite_status(Some(2), Some(&state), &theirs), None);
        assert_eq!(rewrite_status(Some(2), None, &theirs), None);
        assert_eq!(rewrite_status(Some(2), None, &Value::Null), None);
        for free in [Value::Null, json!({}), status("Pending", "Waiting for controller")] {
            let written = rewrite_status(Some(2), Some(&state), &free).unwrap();
            let accepted = &written["conditions"][0];
            assert_eq!(accepted["message"], "forebay.dev/gateway: there is no pool");
            assert_eq!((&accepted["status"], &accepted["observedGeneration"]), (&json!("False"), &json!(2)));
            assert_eq!(rewrite_status(Some(2), Some(&state), &written).as_ref(), Some(&written));
        }
    }

    #[test]
    fn its_own_condition_follows_the_object_and_is_removed_with_it() {
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
