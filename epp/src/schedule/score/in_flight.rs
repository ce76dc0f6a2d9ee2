//! `running-requests-size-scorer` and `active-request-scorer`: requests in flight.

use serde::Deserialize;

use super::{
    super::{parameter, plugin::Scorer, view::View},
    lowest_is_best,
};

/// Prefers engines that run few requests (`running-requests-size-scorer`): `(max - running) / (max - min)`. An unknown
/// number counts as 0.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunningRequests;

impl Scorer for RunningRequests {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        lowest_is_best(candidates, scores, |it| view.running(it).unwrap_or(0.0));
    }
}

/// Prefers endpoints with few requests of this picker (`active-request-scorer`): `maxBusyScore` times
/// `(max - requests) / max`, and 1 at or below `idleThreshold`.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ActiveRequests {
    /// Requests up to which an endpoint is idle. Default 0.
    #[serde(deserialize_with = "parameter::not_negative")]
    pub idle_threshold: f32,
    /// Highest score of an endpoint that is not idle. Default 1.
    #[serde(deserialize_with = "parameter::fraction")]
    pub max_busy_score: f32,
    /// Count the requests of all clients, as the kernel sees them. Not in the ecosystem; default false.
    pub of_all_clients: bool,
}

impl Default for ActiveRequests {
    fn default() -> Self {
        Self { idle_threshold: 0.0, max_busy_score: 1.0, of_all_clients: false }
    }
}

impl Scorer for ActiveRequests {
    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let mut max = 0.0_f32;
        for (candidate, score) in candidates.iter().zip(&mut *scores) {
            *score =
                if self.of_all_clients { view.in_flight(*candidate) } else { view.own_in_flight(*candidate) };
            max = max.max(*score);
        }
        for score in scores {
            let is_idle = *score <= self.idle_threshold;
            *score = if is_idle { 1.0 } else { self.max_busy_score * (max - *score) / max };
        }
    }
}
