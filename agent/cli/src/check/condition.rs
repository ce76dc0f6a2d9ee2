//! Status conditions of objects, as written and as routing computes them.

use forebay_routing::ConditionStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// A condition in a bad state.
pub(super) struct BadCondition {
    name: &'static str,
    status: String,
    /// Empty if the condition is missing.
    pub(super) reason: String,
    message: String,
}

/// `None` if the written condition is true.
pub(super) fn written(conditions: &[Condition], name: &'static str) -> Option<BadCondition> {
    match conditions.iter().find(|condition| condition.type_ == name) {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(BadCondition {
            name,
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        }),
        None => {
            Some(BadCondition { name, status: String::new(), reason: String::new(), message: String::new() })
        }
    }
}

/// `None` if routing computes that the condition is true.
pub(super) fn computed(status: &ConditionStatus, name: &'static str) -> Option<BadCondition> {
    (!status.is_true).then(|| BadCondition {
        name,
        status: "False".into(),
        reason: status.reason.into(),
        message: status.message.clone(),
    })
}

impl BadCondition {
    /// A condition that is bad when it is true.
    pub(super) fn bad(name: &'static str, status: &ConditionStatus) -> Self {
        Self { name, status: "True".into(), reason: status.reason.into(), message: status.message.clone() }
    }
}

impl std::fmt::Display for BadCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, status, reason, message } = self;
        match (status.as_str(), message.as_str()) {
            ("", _) => write!(f, "condition {name} is not set yet"),
            (_, "") => write!(f, "{name} is {status}: {reason}"),
            _ => write!(f, "{name} is {status}: {reason}: {message}"),
        }
    }
}
