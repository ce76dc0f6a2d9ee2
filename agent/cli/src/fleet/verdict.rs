//! Whether a pod works, and why not: the worst of what its agent says about the engine, the GPUs and itself.

use std::time::Duration;

use forebay_telemetry::v1::{Endpoint, GpuHealth, LivenessState};

use super::{GpuRow, level::Level, stale::STALE};
use crate::{format, view::Agent};

/// A state with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    /// For a column.
    pub(crate) text: String,
    /// A sentence. Empty if the text says everything.
    pub(crate) explanation: String,
}

impl Verdict {
    fn new(level: Level, text: impl Into<String>, explanation: impl Into<String>) -> Self {
        Self { level, text: text.into(), explanation: explanation.into() }
    }

    /// The text and the explanation.
    pub(crate) fn sentence(&self) -> String {
        if self.explanation.is_empty() {
            self.text.clone()
        } else {
            format!("{}: {}", self.text, self.explanation)
        }
    }
}

/// `age`: of the newest values of the pod.
pub(super) fn verdict<'a>(
    agent: &Agent,
    endpoint: &Endpoint,
    gpus: impl Iterator<Item = &'a GpuRow>,
    age: Option<Duration>,
) -> Verdict {
    if let Some(reason) = agent.problem() {
        return Verdict::new(Level::Unknown, "unknown", format!("its agent is lost: {reason}"));
    }
    if let Some(age) = age.filter(|age| *age > STALE) {
        return Verdict::new(Level::Unknown, "unknown", format!("no values for {}", format::age(age)));
    }
    let mut all = vec![of_engine(endpoint)];
    all.extend(gpus.map(of_gpu));
    if let Some(reason) = &endpoint.kernel_off {
        all.push(Verdict::new(Level::Suspect, "not counted", reason));
    }
    // The first of the worst.
    all.into_iter().rev().max_by_key(|verdict| verdict.level).unwrap_or_default()
}

fn of_engine(endpoint: &Endpoint) -> Verdict {
    let Some(liveness) = &endpoint.liveness else {
        return Verdict::new(Level::Unknown, "-", endpoint.engine_off.clone().unwrap_or_default());
    };
    let level = match liveness.state() {
        LivenessState::Unspecified => Level::Unknown,
        LivenessState::Alive => Level::Ok,
        LivenessState::Suspect => Level::Suspect,
        LivenessState::Stalled => Level::Failed,
    };
    let state = liveness.state_name().unwrap_or("-");
    let text = liveness.reason_name().map_or_else(|| state.to_owned(), |reason| format!("{state} {reason}"));
    Verdict::new(level, text, liveness.explanation().unwrap_or_default())
}

/// A healthy GPU, or one of unknown health, says nothing about its pods.
fn of_gpu(gpu: &GpuRow) -> Verdict {
    let (level, text) = match gpu.gpu.health() {
        GpuHealth::Ok | GpuHealth::Unspecified => return Verdict::new(Level::Ok, "alive", ""),
        GpuHealth::Degraded if !gpu.gpu.throttle_reasons.is_empty() => {
            (Level::Suspect, format!("throttled {}", gpu.gpu.throttle_reasons.join(",")))
        }
        GpuHealth::Degraded => (Level::Suspect, "GPU degraded".to_owned()),
        GpuHealth::Lost => (Level::Failed, "GPU lost".to_owned()),
    };
    Verdict::new(level, text, format!("GPU {}: {}", gpu.gpu.index, gpu.gpu.health_reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use forebay_telemetry::v1::{Liveness, LivenessReason};

    use super::*;

    #[test]
    fn the_worst_is_shown_and_unknown_is_not_ok() {
        let agent = Agent::default();
        let of = |endpoint: &Endpoint, age| verdict(&agent, endpoint, std::iter::empty(), age);
        let mut endpoint = Endpoint::default();
        assert_eq!((of(&endpoint, None).level, of(&endpoint, None).text.as_str()), (Level::Unknown, "-"));
        endpoint.liveness = Some(Liveness { state: LivenessState::Alive.into(), ..Liveness::default() });
        assert_eq!(of(&endpoint, None), Verdict::new(Level::Ok, "alive", ""));
        endpoint.kernel_off = Some("TLS".into());
        assert_eq!(of(&endpoint, None).sentence(), "not counted: TLS");
        endpoint.liveness = Some(Liveness {
            state: LivenessState::Stalled.into(),
            reason: LivenessReason::NoProgress.into(),
            ..Liveness::default()
        });
        assert_eq!(of(&endpoint, None).text, "stalled no_progress");
        let old = of(&endpoint, Some(Duration::from_secs(60)));
        assert_eq!((old.level, old.text.as_str()), (Level::Unknown, "unknown"));
    }
}
