//! `kv-cache-utilization-scorer`.

use super::super::{plugin::Scorer, view::View};

/// Prefers free KV caches: `1 - usage`. An unknown usage counts as 0.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KvCacheUtilization;

impl Scorer for KvCacheUtilization {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = 1.0 - view.kv_usage(*candidate).unwrap_or(0.0);
        }
    }
}
