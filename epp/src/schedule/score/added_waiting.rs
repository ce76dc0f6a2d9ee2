//! `added-waiting-scorer`: Forebay's default policy.

use super::super::{
    plugin::{Needs, Scorer},
    view::View,
};

/// Prefers the endpoint where the request adds the fewest seconds of waiting, for itself and for all others.
///
/// Score: `1 / (1 + seconds)`.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AddedWaiting;

impl Scorer for AddedWaiting {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = 1.0 / (1.0 + view.added_waiting(*candidate).max(0.0));
        }
    }
}
