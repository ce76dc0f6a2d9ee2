//! Which callers a quota is for.

use std::borrow::Cow;
use std::collections::BTreeSet;

use cel::common::types::{CelBool, CelDouble, CelInt, CelString, CelUInt};
use cel::common::value::Val;

use crate::table::access::{ApiKey, Expression, Variables};

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

    pub(super) fn keys(&self) -> Option<&KeySelector> {
        match self {
            Self::Keys(selector) => Some(selector),
            Self::All | Self::Condition(_) => None,
        }
    }

    /// A condition that cannot be evaluated, for example because the caller has no token, does not hold.
    pub(super) fn contain(&self, variables: &Variables<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Keys(selector) => variables.identity().key.is_some_and(|key| selector.selects_key(key)),
            Self::Condition(condition) => condition.evaluate(variables) == Ok(true),
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
    pub(crate) fn selects_key(&self, key: &ApiKey) -> bool {
        self.selects(|name| key.variable.member(name))
    }

    fn selects<'v>(&'v self, member: impl Fn(&'v str) -> Option<&'v dyn Val>) -> bool {
        self.0.iter().all(|(name, requirement)| requirement.is_met(member(name)))
    }
}

impl Requirement {
    fn is_met(&self, value: Option<&dyn Val>) -> bool {
        let is_one = |values: &BTreeSet<String>| value.and_then(text).is_some_and(|it| values.contains(&*it));
        match self {
            Self::In(values) => is_one(values),
            Self::NotIn(values) => !is_one(values),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

/// Numbers and booleans as they are written in JSON. Lists and objects equal no text.
fn text(value: &dyn Val) -> Option<Cow<'_, str>> {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return Some(Cow::Borrowed(text.inner()));
    }
    let number = value.downcast_ref::<CelInt>().map(|it| it.inner().to_string());
    let number = number.or_else(|| Some(value.downcast_ref::<CelUInt>()?.inner().to_string()));
    let number = number.or_else(|| Some(value.downcast_ref::<CelDouble>()?.inner().to_string()));
    number.or_else(|| Some(value.downcast_ref::<CelBool>()?.inner().to_string())).map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::access::Document;

    #[test]
    fn requirements_are_those_of_label_selectors() {
        use Requirement::{DoesNotExist, Exists, In, NotIn};
        let document =
            Document::new(&serde_json::json!({ "a": "a", "b": "b", "3": 3, "true": true, "list": ["a"] }));
        let values = || ["a".to_owned(), "3".to_owned(), "true".to_owned()].into();
        for (requirement, expected) in [
            // For: missing, "a", "b", 3, true, a list.
            (In(values()), [false, true, false, true, true, false]),
            (NotIn(values()), [true, false, true, false, false, true]),
            (Exists, [false, true, true, true, true, true]),
            (DoesNotExist, [true, false, false, false, false, false]),
        ] {
            let all = ["missing", "a", "b", "3", "true", "list"];
            let met = all.map(|name| requirement.is_met(document.member(name)));
            assert_eq!(met, expected, "{requirement:?}");
        }
    }
}
