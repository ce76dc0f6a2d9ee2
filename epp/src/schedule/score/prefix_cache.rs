//! `prefix-cache-scorer`.

use serde::Deserialize;

use super::super::{
    parameter::{self, BYTES_PER_TOKEN},
    plugin::{Needs, Scorer},
    view::View,
};

/// Prefers endpoints that have the prompt in their cache:
/// `(1 - matchLengthWeight) * ratio + matchLengthWeight * min(1, matched tokens / matchLengthScaleTokens)^2`, where the ratio
/// is `matched blocks / blocks`, 0 without a whole block.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PrefixCache {
    /// Share of the length of the match in the score, 0 to 1. Default 0.
    #[serde(deserialize_with = "parameter::fraction")]
    pub match_length_weight: f32,
    /// Matched tokens with the highest score. Default 8192.
    #[serde(deserialize_with = "parameter::positive")]
    pub match_length_scale_tokens: f32,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self { match_length_weight: 0.0, match_length_scale_tokens: 8192.0 }
    }
}

impl Scorer for PrefixCache {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let blocks = view.prompt_blocks().max(1) as f32;
        for (candidate, score) in candidates.iter().zip(scores) {
            let ratio = view.matched_blocks(*candidate) as f32 / blocks;
            let tokens = view.matched_bytes(*candidate) as f32 / BYTES_PER_TOKEN;
            let length = (tokens / self.match_length_scale_tokens).min(1.0).powi(2);
            *score = (1.0 - self.match_length_weight) * ratio + self.match_length_weight * length;
        }
    }
}
