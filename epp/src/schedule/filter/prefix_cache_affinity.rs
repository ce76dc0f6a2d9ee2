//! `prefix-cache-affinity-filter`: sticky until saturated.

use serde::Deserialize;

use super::super::{
    parameter::{self, BYTES_PER_TOKEN},
    plugin::{Filter, Needs},
    view::View,
};

/// Keeps the endpoints that have at least `affinityThreshold` of the prompt in their cache; all if none has.
///
/// Affinity breaks when the best warm endpoint would start `maxTTFTPenaltyMs` later than the best cold one. The start is
/// estimated as uncached tokens in flight over `peakPrefillThroughput`, which belongs to model, GPU, engine and chunk size
/// and must be measured by hand.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PrefixCacheAffinity {
    /// Default 0.8.
    #[serde(deserialize_with = "parameter::fraction")]
    pub affinity_threshold: f32,
    /// Probability of ignoring the affinity for a request. Default 0.
    #[serde(deserialize_with = "parameter::fraction")]
    pub exploration_probability: f32,
    /// Milliseconds. Default 18,000.
    #[serde(rename = "maxTTFTPenaltyMs", deserialize_with = "parameter::not_negative")]
    pub max_ttft_penalty_ms: f32,
    /// Tokens per second. Default 15,928.
    #[serde(deserialize_with = "parameter::positive")]
    pub peak_prefill_throughput: f32,
}

impl Default for PrefixCacheAffinity {
    fn default() -> Self {
        Self {
            affinity_threshold: 0.8,
            exploration_probability: 0.0,
            max_ttft_penalty_ms: 18_000.0,
            peak_prefill_throughput: 15_928.0,
        }
    }
}

impl Filter for PrefixCacheAffinity {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        let blocks = view.prompt_blocks().max(1) as f32;
        let is_warm =
            |candidate: u32| view.matched_blocks(candidate) as f32 / blocks >= self.affinity_threshold;
        let explores = self.exploration_probability > 0.0 && fastrand::f32() < self.exploration_probability;
        if explores {
            return;
        }
        let (mut warm, mut cold) = (f32::INFINITY, f32::INFINITY);
        for candidate in candidates.iter().copied() {
            let best = if is_warm(candidate) { &mut warm } else { &mut cold };
            let tokens = view.own_backlog_bytes(candidate) / BYTES_PER_TOKEN;
            *best = best.min(tokens / self.peak_prefill_throughput);
        }
        let breaks = self.max_ttft_penalty_ms > 0.0 && warm - cold > self.max_ttft_penalty_ms / 1000.0;
        if warm.is_finite() && !breaks {
            candidates.retain(|candidate| is_warm(*candidate));
        }
    }
}
