//! `session-affinity-scorer`.

use super::super::{plugin::Scorer, session::SessionAffinity, view::View};

impl Scorer for SessionAffinity {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let Some(home) = self.home(view) else { return };
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = f32::from(u8::from(home.is(view, *candidate)));
        }
    }

    fn picked(&self, view: &View<'_>, candidate: u32) {
        self.picked(view, candidate);
    }

    fn token_header(&self) -> Option<&str> {
        self.token_header()
    }
}
