//! The interfaces of plugins: filters and scorers.
//!
//! A plugin sees all candidates at once, so a pick makes one call per plugin. Plugins are functions of the [`View`]; those
//! with a memory update it when a candidate is picked.

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

    /// Removes candidates that must not, or should not, be picked. The request fails if none is left.
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>);

    /// The candidate was picked.
    fn picked(&self, _view: &View<'_>, _candidate: u32) {}

    /// The response header in which the client gets the token of its session.
    fn token_header(&self) -> Option<&str> {
        None
    }
}

/// Rates candidates.
pub trait Scorer: fmt::Debug + Send + Sync {
    /// What the plugin reads.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Writes a score from 0 to 1 for each candidate, in order; the highest is best. The scores have a 0 per candidate.
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]);

    /// The candidate was picked.
    fn picked(&self, _view: &View<'_>, _candidate: u32) {}

    /// The response header in which the client gets the token of its session.
    fn token_header(&self) -> Option<&str> {
        None
    }
}
