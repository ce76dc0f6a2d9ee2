//! `prefix-cache-scorer`.

use super::super::{
    plugin::{Needs, Scorer},
    view::View,
};

/// Prefers endpoints that have the prompt in their cache: `matched blocks / blocks`. 0 without a whole block.
#[derive(Debug)]
pub struct PrefixCache;

impl Scorer for PrefixCache {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let blocks = view.prompt_blocks().max(1) as f32;
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = view.matched_blocks(*candidate) as f32 / blocks;
        }
    }
}
