//! `queue-scorer` and `load-aware-scorer`: the engine's queue.

use serde::Deserialize;

use super::{
    super::{parameter, plugin::Scorer, view::View},
    lowest_is_best,
};

/// Prefers short queues (`queue-scorer`): `(max - queue) / (max - min)` over the candidates. An unknown queue counts as
/// empty.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Queue;

impl Scorer for Queue {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        lowest_is_best(candidates, scores, |it| view.queued(it).unwrap_or(0.0));
    }
}

/// Prefers short queues on a fixed scale (`load-aware-scorer`): `0.5 * (1 - queue / threshold)`.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LoadAware {
    /// Queue with the score 0. Default 128.
    #[serde(deserialize_with = "parameter::positive")]
    pub threshold: f32,
}

impl Default for LoadAware {
    fn default() -> Self {
        Self { threshold: 128.0 }
    }
}

impl Scorer for LoadAware {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        for (candidate, score) in candidates.iter().zip(scores) {
            let queued = view.queued(*candidate).unwrap_or(0.0);
            *score = 0.5 * (1.0 - (queued / self.threshold).clamp(0.0, 1.0));
        }
    }
}
