//! What is not supported or invalid in AgentgatewayPolicies and Quotas, and their condition.

use forebay_resources::ObjectKey;

use crate::condition::{ConditionStatus, reason};

/// Maximum problems in the message of a condition.
const MAX_IN_MESSAGE: usize = 16;

/// What happens because of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyEffect {
    /// The field restricts access and is not enforced: what the policy targets is closed.
    Closes,
    /// The value is invalid: what it would set is not set.
    NotSet,
    /// A key cannot be read: requests with it are rejected.
    KeyNotAccepted,
    /// The field is not supported, or another policy has precedence: it has no effect.
    Ignored,
}

/// One problem of a policy or a quota.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyProblem {
    /// What happens because of it.
    pub effect: PolicyEffect,
    /// Names the field.
    pub message: String,
}

impl PolicyProblem {
    /// The field of an older policy has precedence at the `target`.
    pub(super) fn replaced(target: &str, field: &str, older: &ObjectKey) -> Self {
        let message = format!(
            "traffic.{field} has no effect at {target}: that of AgentgatewayPolicy {older} has precedence"
        );
        Self { effect: PolicyEffect::Ignored, message }
    }
}

/// A policy or a quota at a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyReport {
    /// In the order of the fields, each once.
    pub problems: Vec<PolicyProblem>,
}

impl PolicyReport {
    pub(super) fn add(&mut self, problems: &[PolicyProblem]) {
        for problem in problems {
            if !self.problems.contains(problem) {
                self.problems.push(problem.clone());
            }
        }
    }

    /// Condition `Accepted`. Its message has all problems.
    pub fn accepted(&self) -> ConditionStatus {
        if self.problems.is_empty() {
            return ConditionStatus::met(reason::ACCEPTED);
        }
        let mut messages: Vec<&str> =
            self.problems.iter().take(MAX_IN_MESSAGE).map(|problem| problem.message.as_str()).collect();
        let more = format!("and {} more", self.problems.len().saturating_sub(MAX_IN_MESSAGE));
        if self.problems.len() > MAX_IN_MESSAGE {
            messages.push(&more);
        }
        ConditionStatus::unmet(reason::INVALID, messages.join("; "))
    }
}
