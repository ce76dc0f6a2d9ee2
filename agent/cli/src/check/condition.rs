//! Conditions of statuses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Why the condition does not hold; nothing if it does.
pub(super) fn why_not<'a>(conditions: &'a [Condition], name: &str) -> Option<WhyNot<'a>> {
    match conditions.iter().find(|condition| condition.type_ == name) {
        Some(condition) if condition.status == "True" => None,
        found => Some(WhyNot { name: name.to_owned(), found }),
    }
}

pub(super) struct WhyNot<'a> {
    name: String,
    found: Option<&'a Condition>,
}

impl<'a> WhyNot<'a> {
    /// Empty where nobody has said anything yet.
    pub(super) fn reason(&self) -> &'a str {
        self.found.map_or("", |condition| condition.reason.as_str())
    }
}

impl std::fmt::Display for WhyNot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.found {
            None => write!(f, "no condition {} yet", self.name),
            Some(Condition { status, reason, message, .. }) if message.is_empty() => {
                write!(f, "{} is {status}: {reason}", self.name)
            }
            Some(Condition { status, reason, message, .. }) => {
                write!(f, "{} is {status}: {reason}: {message}", self.name)
            }
        }
    }
}
