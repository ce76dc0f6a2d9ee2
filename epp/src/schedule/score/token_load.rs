//! `token-load-scorer`.

use serde::Deserialize;

use super::super::{
    parameter::{self, BYTES_PER_TOKEN},
    plugin::{Needs, Scorer},
    view::View,
};

/// Prefers endpoints with few uncached prompt tokens in flight (`token-load-scorer`): those of this picker's requests
/// without a first byte, and those of the request itself. `1 - min(1, tokens / queueThresholdTokens)`.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TokenLoad {
    /// Tokens with the score 0. Default 4,194,304.
    #[serde(rename = "queueThresholdTokens", deserialize_with = "parameter::positive")]
    pub threshold_tokens: f32,
}

impl Default for TokenLoad {
    fn default() -> Self {
        Self { threshold_tokens: 4_194_304.0 }
    }
}

impl Scorer for TokenLoad {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let prompt = view.prompt_bytes();
        for (candidate, score) in candidates.iter().zip(scores) {
            let own = (prompt - view.matched_bytes(*candidate)) as f32;
            let tokens = (view.own_backlog_bytes(*candidate) + own) / BYTES_PER_TOKEN;
            *score = 1.0 - (tokens / self.threshold_tokens).min(1.0);
        }
    }
}
