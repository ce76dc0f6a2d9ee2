//! `endpoint-attribute-scorer`.

use serde::{Deserialize, Deserializer, de::Error as _};

use super::super::{attribute::Attribute, parameter, plugin::Scorer, view::View};

/// Rates a number of the endpoints: `(value - min) / (max - min)`, or 1 minus it, within 0 and 1. An endpoint of which the
/// number is not known gets 0.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EndpointAttributeScorer {
    /// `num_requests_running`, `num_requests_waiting`, `kv_cache_usage_perc` (vLLM's) or `requests_in_flight` (of all clients,
    /// as agents count them). Required.
    #[serde(deserialize_with = "Attribute::by_name")]
    attribute_key: Attribute,
    /// `type`: `linear_lower_is_better` or `linear_higher_is_better`. `normalization`: `fixedRange` with `min` and `max`, or
    /// `adaptiveRange: {}`, the range of the candidates (default). Required.
    algorithm: Algorithm,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Algorithm {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default, deserialize_with = "normalization")]
    normalization: Normalization,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
enum Kind {
    LinearLowerIsBetter,
    LinearHigherIsBetter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Normalization {
    fixed_range: Option<FixedRange>,
    adaptive_range: Option<AdaptiveRange>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct FixedRange {
    #[serde(deserialize_with = "parameter::finite")]
    min: f32,
    #[serde(deserialize_with = "parameter::finite")]
    max: f32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AdaptiveRange {}

fn normalization<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Normalization, D::Error> {
    let normalization = Normalization::deserialize(deserializer)?;
    if normalization.fixed_range.is_some() && normalization.adaptive_range.is_some() {
        return Err(D::Error::custom("fixedRange and adaptiveRange exclude each other"));
    }
    match normalization.fixed_range {
        Some(FixedRange { min, max }) if min >= max => {
            Err(D::Error::custom(format_args!("min {min} of fixedRange is not less than max {max}")))
        }
        _ => Ok(normalization),
    }
}

impl EndpointAttributeScorer {
    /// The range of the candidates. The minimum is greater than the maximum if no number is known.
    fn range(&self, view: &View<'_>, candidates: &[u32]) -> FixedRange {
        let known = candidates.iter().filter_map(|candidate| self.attribute_key.value(view, *candidate));
        let nothing = FixedRange { min: f32::INFINITY, max: f32::NEG_INFINITY };
        known.fold(nothing, |range, it| FixedRange { min: range.min.min(it), max: range.max.max(it) })
    }
}

impl Scorer for EndpointAttributeScorer {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let fixed = self.algorithm.normalization.fixed_range;
        let FixedRange { min, max } = fixed.unwrap_or_else(|| self.range(view, candidates));
        for (candidate, score) in candidates.iter().zip(scores) {
            let Some(number) = self.attribute_key.value(view, *candidate) else { continue };
            let position = ((number - min) / (max - min)).clamp(0.0, 1.0);
            *score = match self.algorithm.kind {
                _ if min == max => 1.0,
                Kind::LinearLowerIsBetter => 1.0 - position,
                Kind::LinearHigherIsBetter => position,
            };
        }
    }
}
