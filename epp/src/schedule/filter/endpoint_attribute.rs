//! `endpoint-attribute-filter`.

use serde::Deserialize;

use super::super::{attribute::Attribute, parameter, plugin::Filter, view::View};

/// Keeps the endpoints of which a number passes a comparison.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EndpointAttributeFilter {
    /// `num_requests_running`, `num_requests_waiting`, `kv_cache_usage_perc` (vLLM's) or `requests_in_flight` (of all clients,
    /// as agents count them). Required.
    #[serde(deserialize_with = "Attribute::by_name")]
    attribute: Attribute,
    /// What happens to endpoints of which the number is not known: `Pass` or `Fail`. Default `Pass`.
    #[serde(default)]
    on_missing: OnMissing,
    /// Keep all endpoints if none passes. Default false: the request fails.
    #[serde(default)]
    fallback_on_empty: bool,
    /// `type: threshold` and `threshold` with `operator` (`LessThan`, `LessThanOrEqual`, `GreaterThan`, `GreaterThanOrEqual`,
    /// `Equal`, `NotEqual`) and `value`. Required.
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
enum OnMissing {
    #[default]
    Pass,
    Fail,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Algorithm {
    #[serde(rename = "type")]
    _kind: Kind,
    threshold: Threshold,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
enum Kind {
    Threshold,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Threshold {
    operator: Operator,
    #[serde(deserialize_with = "parameter::finite")]
    value: f32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
enum Operator {
    LessThan,
    LessThanOrEqual,
    GreaterThan,
    GreaterThanOrEqual,
    Equal,
    NotEqual,
}

impl Threshold {
    fn passes(&self, number: f32) -> bool {
        match self.operator {
            Operator::LessThan => number < self.value,
            Operator::LessThanOrEqual => number <= self.value,
            Operator::GreaterThan => number > self.value,
            Operator::GreaterThanOrEqual => number >= self.value,
            Operator::Equal => number == self.value,
            Operator::NotEqual => number != self.value,
        }
    }
}

impl Filter for EndpointAttributeFilter {
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        let is_kept = |candidate: &u32| match self.attribute.value(view, *candidate) {
            Some(number) => self.algorithm.threshold.passes(number),
            None => self.on_missing == OnMissing::Pass,
        };
        if !self.fallback_on_empty || candidates.iter().any(is_kept) {
            candidates.retain(is_kept);
        }
    }
}
