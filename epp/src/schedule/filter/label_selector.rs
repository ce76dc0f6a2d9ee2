//! `label-selector-filter`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::super::{plugin::Filter, view::View};

/// Keeps the endpoints whose pods match a Kubernetes label selector.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LabelSelector {
    /// Labels that a pod must have. Default none.
    pub match_labels: BTreeMap<String, String>,
    /// `key`, `operator` (`In`, `NotIn`, `Exists`, `DoesNotExist`) and `values`. Default none.
    #[serde(deserialize_with = "expressions")]
    pub match_expressions: Vec<Expression>,
}

/// A requirement on one label.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
pub struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

fn expressions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Expression>, D::Error> {
    let expressions = Vec::<Expression>::deserialize(deserializer)?;
    for Expression { key, operator, values } in &expressions {
        let needs_values = matches!(operator, Operator::In | Operator::NotIn);
        if needs_values == values.is_empty() {
            let rule = if needs_values { "needs values" } else { "takes no values" };
            return Err(D::Error::custom(format_args!("operator {operator:?} of {key:?} {rule}")));
        }
    }
    Ok(expressions)
}

impl Expression {
    fn matches(&self, label: Option<&str>) -> bool {
        let is_in = || label.is_some_and(|label| self.values.iter().any(|value| value == label));
        match self.operator {
            Operator::In => is_in(),
            Operator::NotIn => !is_in(),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
        }
    }
}

impl Filter for LabelSelector {
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        candidates.retain(|candidate| {
            let label = |name: &str| view.label(*candidate, name);
            self.match_labels.iter().all(|(name, value)| label(name) == Some(value))
                && self.match_expressions.iter().all(|it| it.matches(label(&it.key)))
        });
    }
}
