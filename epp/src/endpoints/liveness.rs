//! The agent's verdict on the engine of an endpoint.
//!
//! The agent sees the engine's responses, counters and GPUs, so its verdict overrules what a pool infers from silence. It
//! expires with the agent's reports: an agent that stopped excludes no endpoint.

use std::time::{Duration, Instant};

use forebay_telemetry::v1::{self, LivenessState};

/// Silence that an engine may show although the agent says that it is alive: the agent looks at seconds, and the pool at
/// its own expectation of this endpoint.
const ALIVE_SILENCE: Duration = Duration::from_secs(2);

/// A verdict, and how long it may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub(super) liveness: v1::Liveness,
    /// When state or reason changed, on the local clock.
    pub(super) since: Option<Instant>,
    pub(super) until: Instant,
}

impl Verdict {
    /// The verdict, unless it is stale.
    pub(super) fn fresh(&self, now: Instant) -> Option<&v1::Liveness> {
        (now <= self.until).then_some(&self.liveness)
    }

    /// When the engine has last done something, if it is alive at `now`.
    pub(super) fn progress_at(&self, now: Instant) -> Option<Instant> {
        let is_alive = self.liveness.state() == LivenessState::Alive;
        now.checked_sub(ALIVE_SILENCE).filter(|_| is_alive)
    }

    /// Excludes the endpoint until then.
    pub(super) fn stalled_until(&self) -> Option<Instant> {
        (self.liveness.state() == LivenessState::Stalled).then_some(self.until)
    }

    /// Makes the endpoint less preferred until then.
    pub(super) fn suspect_until(&self) -> Option<Instant> {
        (self.liveness.state() == LivenessState::Suspect).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use forebay_telemetry::v1::Liveness;

    use super::*;

    #[test]
    fn a_verdict_expires_and_only_one_that_is_alive_is_progress() {
        let now = Instant::now() + Duration::from_secs(60);
        let until = now + Duration::from_secs(1);
        let verdict = |state: LivenessState| Verdict {
            liveness: Liveness { state: state.into(), ..Liveness::default() },
            since: None,
            until,
        };
        let [alive, suspect, stalled] =
            [LivenessState::Alive, LivenessState::Suspect, LivenessState::Stalled].map(verdict);
        assert_eq!(alive.progress_at(now), Some(now - ALIVE_SILENCE));
        assert_eq!([suspect.progress_at(now), stalled.progress_at(now)], [None, None]);
        assert_eq!([alive, suspect, stalled].map(|it| it.stalled_until()), [None, None, Some(until)]);
        assert_eq!([alive, suspect, stalled].map(|it| it.suspect_until()), [None, Some(until), None]);
        assert!(stalled.fresh(until).is_some());
        assert!(stalled.fresh(until + Duration::from_millis(1)).is_none());
    }
}
