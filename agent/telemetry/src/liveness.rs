//! Names and texts of the verdicts on engines.

use crate::v1::{Liveness, LivenessReason, LivenessState};

impl Liveness {
    /// Name of the state in metrics, CLI and JSON. `None` if there is no verdict.
    pub fn state_name(&self) -> Option<&'static str> {
        match self.state() {
            LivenessState::Unspecified => None,
            LivenessState::Alive => Some("alive"),
            LivenessState::Suspect => Some("suspect"),
            LivenessState::Stalled => Some("stalled"),
        }
    }

    /// Name of the reason in metrics, CLI and JSON. `None` for an engine that is alive.
    pub fn reason_name(&self) -> Option<&'static str> {
        match self.reason() {
            LivenessReason::Unspecified => None,
            LivenessReason::NotScraped => Some("not_scraped"),
            LivenessReason::ScrapesFail => Some("scrapes_fail"),
            LivenessReason::NoProgress => Some("no_progress"),
            LivenessReason::ResponsesSilent => Some("responses_silent"),
            LivenessReason::Asleep => Some("asleep"),
        }
    }

    /// The reason as a sentence for an operator. `None` for an engine that is alive.
    pub fn explanation(&self) -> Option<&'static str> {
        match self.reason() {
            LivenessReason::Unspecified => None,
            LivenessReason::NotScraped => {
                Some("the engine has not answered a scrape yet; it is probably still loading the model")
            }
            LivenessReason::ScrapesFail => Some("the engine no longer answers scrapes of /metrics"),
            LivenessReason::NoProgress => Some(
                "requests wait for their first token, and the engine's counters of steps and tokens do not move",
            ),
            LivenessReason::ResponsesSilent => Some(
                "responses have begun, and the engine has sent no content for much longer than between its tokens",
            ),
            LivenessReason::Asleep => Some("the engine sleeps until it is woken up (POST /wake_up)"),
        }
    }
}
