//! Which callers a quota is for.

use std::collections::BTreeSet;

use cel::{Context, Value};

use crate::table::access::{Expression, Identity};

#[derive(Debug)]
pub(crate) enum Callers {
    All,
    Keys(KeySelector),
    Condition(Expression),
}

impl Callers {
    pub(super) fn are_all(&self) -> bool {
        matches!(self, Self::All)
    }

    pub(super) fn condition(&self) -> Option<&Expression> {
        match self {
            Self::Condition(condition) => Some(condition),
            Self::All | Self::Keys(_) => None,
        }
    }

    /// A condition that cannot be evaluated, for example because the caller has no token, does not hold.
    pub(super) fn contain<'c>(
        &self,
        identity: &Identity<'_>,
        context: &dyn Fn() -> &'c Context<'static, 'static>,
    ) -> bool {
        match self {
            Self::All => true,
            Self::Keys(selector) => identity.key.is_some_and(|key| selector.selects(|name| key.member(name))),
            Self::Condition(condition) => condition.evaluate(context()) == Ok(true),
        }
    }
}

/// Requirements on the metadata of an API key. All of them must be met.
#[derive(Debug, Default)]
pub(crate) struct KeySelector(pub(crate) Vec<(String, Requirement)>);

#[derive(Debug)]
pub(crate) enum Requirement {
    In(BTreeSet<String>),
    /// Also met without the member, as in label selectors of Kubernetes.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl KeySelector {
    fn selects<'v>(&self, member: impl Fn(&str) -> Option<&'v Value>) -> bool {
        self.0.iter().all(|(name, requirement)| requirement.is_met(member(name)))
    }
}

impl Requirement {
    fn is_met(&self, value: Option<&Value>) -> bool {
        let is_one = |values: &BTreeSet<String>| value.and_then(text).is_some_and(|it| values.contains(&it));
        match self {
            Self::In(values) => is_one(values),
            Self::NotIn(values) => !is_one(values),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

/// Numbers and booleans as they are written in JSON. Lists and objects equal no text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_those_of_label_selectors() {
        use Requirement::{DoesNotExist, Exists, In, NotIn};
        let text = |it: &str| Value::String(std::sync::Arc::new(it.to_owned()));
        let values = || ["a".to_owned(), "3".to_owned(), "true".to_owned()].into();
        for (requirement, expected) in [
            // For: missing, "a", "b", 3, true, a list.
            (In(values()), [false, true, false, true, true, false]),
            (NotIn(values()), [true, false, true, false, false, true]),
            (Exists, [false, true, true, true, true, true]),
            (DoesNotExist, [true, false, false, false, false, false]),
        ] {
            let list = Value::List(std::sync::Arc::new(vec![text("a")]));
            let all = [
                None,
                Some(text("a")),
                Some(text("b")),
                Some(Value::Int(3)),
                Some(Value::Bool(true)),
                Some(list),
            ];
            let met = all.map(|value| requirement.is_met(value.as_ref()));
            assert_eq!(met, expected, "{requirement:?}");
        }
    }
}
