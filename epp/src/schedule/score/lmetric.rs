//! `lmetric-scorer` (LMetric, arXiv 2603.15202).

use super::{
    super::{
        parameter::BYTES_PER_TOKEN,
        plugin::{Needs, Scorer},
        view::View,
    },
    lowest_is_best,
};

/// Prefers a small product of new prefill tokens and requests in flight:
/// `(blocks - matched blocks) * block tokens * (requests + 1)`, scaled to the candidates.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LMetric;

impl Scorer for LMetric {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let prompt = view.prompt_bytes();
        lowest_is_best(candidates, scores, |it| {
            let tokens = (prompt - view.matched_bytes(it)) as f32 / BYTES_PER_TOKEN;
            tokens * (view.own_in_flight(it) + 1.0)
        });
    }
}
