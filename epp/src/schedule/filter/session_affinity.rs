//! `session-affinity-filter`.

use super::super::{plugin::Filter, session::SessionAffinity, view::View};

impl Filter for SessionAffinity {
    fn filter(&self, view: &View<'_>, candidates: &mut Vec<u32>) {
        let Some(home) = self.home(view) else { return };
        if candidates.iter().any(|candidate| home.is(view, *candidate)) {
            candidates.retain(|candidate| home.is(view, *candidate));
        }
    }

    fn picked(&self, view: &View<'_>, candidate: u32) {
        self.picked(view, candidate);
    }

    fn token_header(&self) -> Option<&str> {
        self.token_header()
    }
}
