//! `utilization-filter`.

use serde::{Deserialize, Deserializer, de::Error as _};

use super::super::{attribute::Attribute, parameter, plugin::Filter, view::View};

/// Keeps the endpoints that meet all conditions. An unknown number counts as 0.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Utilization {
    /// `metric` (`active-requests`, `running-requests`, `waiting-queue`, `kv-cache-utilization`) and `maxValue`. Required.
    #[serde(deserialize_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Keep all endpoints if none meets the conditions. Default false: the request fails.
    #[serde(default)]
    pub fallback_on_empty: bool,
}

/// The highest value of a number.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Condition {
    metric: Metric,
    #[serde(deserialize_with = "parameter::not_negative")]
    max_value: f32,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
enum Metric {
    ActiveRequests,
    RunningRequests,
    WaitingQueue,
    KvCacheUtilization,
}

fn conditions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    let conditions = Vec::<Condition>::deserialize(deserializer)?;
    if conditions.is_empty() {
        return Err(D::Error::custom("must not be empty"));
    }
    let over = conditions.iter().find(|it| it.metric == Metric::KvCacheUtilization && it.max_value > 1.0);
    match over {
        Some(Condition { max_value, .. }) => Err(D::Error::custom(format_args!(
            "the maxValue of kv-cache-utilization is a fraction; {max_value} is not a number from 0 to 1"
        ))),
        None => Ok(conditions),
    }
}

impl Condition {
    fn is_met(&self, view: &View<'_>, candidate: u32) -> bool {
        let attribute = match self.metric {
            Metric::ActiveRequests => Attribute::Active,
            Metric::RunningRequests => Attribute::Running,
            Metric::WaitingQueue => Attribute::Queued,
            Metric::KvCacheUtilization => Attribute::KvUsage,
        };
        attribute.value(view, candidate).unwrap_or(0.0) <= self.max_value
    }
}

impl Filter for Utilization {
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        let is_kept = |candidate: &u32| self.conditions.iter().all(|it| it.is_met(view, *candidate));
        if !self.fallback_on_empty || candidates.iter().any(is_kept) {
            candidates.retain(is_kept);
        }
    }
}
