//! The interfaces of plugins: filters and scorers.
//!
//! A plugin sees all candidates at once, so a pick makes one call per plugin. Plugins are pure functions of the [`View`].

use std::fmt;

use super::view::View;

/// What a plugin reads of a request. A pipeline that does not need the body decides on the headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The prompt, so the body.
    pub prompt: bool,
}

/// Removes candidates.
pub trait Filter: fmt::Debug + Send + Sync {
    /// What the plugin reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Removes candidates that must not, or should not, be picked. Leaves at least one.
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>);
}

/// Rates candidates.
pub trait Scorer: fmt::Debug + Send + Sync {
    /// What the plugin reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Writes a score from 0 to 1 for each candidate, in order; the highest is best. The scores have a 0 per candidate.
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]);
}
