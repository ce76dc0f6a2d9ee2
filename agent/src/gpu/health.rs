//! Derives a GPU's health from XID errors, the driver's recovery action, throttling and lost devices.
//!
//! Whether an XID needs a reset depends on the GPU, the driver and the error's containment. The driver knows that and
//! says it as the recovery action, so the action decides where there is one:
//! - Any action other than "none": the GPU is not OK, also without an XID.
//! - "none": no XID makes the GPU lost. A fatal one degrades it for [`RECOVERABLE_FOR`], like a recoverable one: the
//!   error did happen, and the driver may set the action later than it reports the XID. So a GPU that was reset is used
//!   again without a restart of the agent.
//! - Unknown (an older driver, or a GPU that does not respond): the table of XIDs decides alone.

use std::time::Duration;

use nvml_wrapper::bitmasks::device::ThrottleReasons;

use super::recovery::Recovery;
use forebay_telemetry::v1::GpuHealth;

/// A GPU is degraded for this long after a recoverable error.
pub(super) const RECOVERABLE_FOR: Duration = Duration::from_secs(600);

/// Severity of an XID for serving (NVIDIA, "XID Errors").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Caused by the application (illegal access, channel reset).
    Application,
    /// Handled by the hardware (row remapped, contained or corrected errors).
    Recoverable,
    /// The GPU needs a reset or is not on the bus.
    Fatal,
}

/// The driver changed the recovery action, possibly to "none".
const RECOVERY_ACTION_CHANGED: u64 = 154;

pub(super) fn severity(xid: u64) -> Severity {
    match xid {
        // 48 double-bit ECC, 62 halted PMU, 64 row remapper failure, 74 NVLink,
        // 79 off the bus, 95 uncontained ECC, 119 and 120 GSP, 140 unrecovered ECC,
        // 142 and 143 recovery needed.
        48 | 62 | 64 | 74 | 79 | 95 | 119 | 120 | 140 | 142 | 143 | RECOVERY_ACTION_CHANGED => {
            Severity::Fatal
        }
        // 63 row remapped, 92 high single-bit ECC rate, 94 contained ECC.
        63 | 92 | 94 => Severity::Recoverable,
        _ => Severity::Application,
    }
}

/// Throttling reasons that indicate a fault, not a configured limit.
const FAULTY_THROTTLING: ThrottleReasons = ThrottleReasons::HW_SLOWDOWN
    .union(ThrottleReasons::HW_THERMAL_SLOWDOWN)
    .union(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN)
    .union(ThrottleReasons::SW_THERMAL_SLOWDOWN);

/// Why the driver reports a GPU as unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Gone,
    NeedsReset,
}

/// What the driver says about a GPU. Absent values are unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Observed {
    pub(super) lost: Option<Lost>,
    pub(super) recovery: Option<Recovery>,
    pub(super) throttling: Option<ThrottleReasons>,
}

/// XID errors of one GPU.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) xid_errors: u64,
    /// XID and CLOCK_BOOTTIME nanoseconds.
    pub(super) last_xid: Option<(u64, u64)>,
    /// Kept until the agent restarts. As all below: the XID and CLOCK_BOOTTIME nanoseconds.
    fatal_xid: Option<(u64, u64)>,
    recoverable: Option<(u64, u64)>,
}

impl History {
    pub(super) fn record(&mut self, xid: u64, at_ns: u64) {
        self.xid_errors += 1;
        self.last_xid = Some((xid, at_ns));
        match severity(xid) {
            // It follows the XID that is the cause.
            Severity::Fatal if xid == RECOVERY_ACTION_CHANGED && self.fatal_xid.is_some() => {}
            Severity::Fatal => self.fatal_xid = Some((xid, at_ns)),
            Severity::Recoverable => self.recoverable = Some((xid, at_ns)),
            Severity::Application => {}
        }
    }

    /// Returns the health, and the reason if it is not OK.
    pub(super) fn judge(&self, observed: Observed, now_ns: u64) -> (GpuHealth, String) {
        if let Some(verdict) = self.unusable(observed) {
            return verdict;
        }
        if let Some(xid) = self.recent_xid(observed.recovery, now_ns) {
            return (GpuHealth::Degraded, format!("XID {xid}"));
        }
        let faulty = observed.throttling.unwrap_or(ThrottleReasons::NONE) & FAULTY_THROTTLING;
        if !faulty.is_empty() {
            return (GpuHealth::Degraded, format!("throttled: {}", names(faulty).join(", ")));
        }
        (GpuHealth::Ok, String::new())
    }

    /// What the driver says, and the table of XIDs where it says nothing.
    fn unusable(&self, observed: Observed) -> Option<(GpuHealth, String)> {
        // The XID is the cause of a lost GPU.
        let xid = self.fatal_xid.map(|(xid, _)| format!("XID {xid}"));
        let lost = |text: &str| (GpuHealth::Lost, xid.clone().unwrap_or_else(|| text.to_owned()));
        match (observed.lost, observed.recovery) {
            (Some(Lost::Gone), _) => Some(lost("the driver reports the GPU as lost")),
            (Some(Lost::NeedsReset), _) => Some(lost("the driver requires a reset of the GPU")),
            (None, Some(Recovery::NotNeeded)) => None,
            (None, Some(action)) => {
                let after = xid.map(|xid| format!(" ({xid})")).unwrap_or_default();
                Some((action.health(), format!("the driver's recovery action is {action}{after}")))
            }
            (None, None) => xid.map(|xid| (GpuHealth::Lost, xid)),
        }
    }

    /// The newest XID that degrades the GPU.
    fn recent_xid(&self, recovery: Option<Recovery>, now_ns: u64) -> Option<u64> {
        let is_recent = |(_, at_ns): &(u64, u64)| now_ns < at_ns + RECOVERABLE_FOR.as_nanos() as u64;
        // With a known action, a change of the action is not a separate error.
        let is_error = |(xid, _): &(u64, u64)| !(*xid == RECOVERY_ACTION_CHANGED && recovery.is_some());
        let recent = self.recoverable.into_iter().chain(self.fatal_xid).filter(is_error).filter(is_recent);
        recent.max_by_key(|(_, at_ns)| *at_ns).map(|(xid, _)| xid)
    }
}

/// Names of NVML's clocks event reasons, in lower snake case.
pub(super) fn names(reasons: ThrottleReasons) -> Vec<String> {
    reasons.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Observed = Observed { lost: None, recovery: None, throttling: None };

    fn with_action(action: u32) -> Observed {
        Observed { recovery: Some(Recovery::from(action)), ..UNKNOWN }
    }

    #[test]
    fn fatal_xid_is_permanent_and_recoverable_xid_expires() {
        let mut history = History::default();
        assert_eq!(history.judge(UNKNOWN, 0), (GpuHealth::Ok, String::new()));
        history.record(31, 1);
        assert_eq!(history.judge(UNKNOWN, 2).0, GpuHealth::Ok, "caused by the application");
        history.record(94, 10);
        history.record(13, 10);
        assert_eq!(history.judge(UNKNOWN, 11), (GpuHealth::Degraded, "XID 94".into()));
        let later = 10 + RECOVERABLE_FOR.as_nanos() as u64;
        assert_eq!(history.judge(UNKNOWN, later).0, GpuHealth::Ok);
        history.record(79, later);
        assert_eq!(history.judge(UNKNOWN, u64::MAX), (GpuHealth::Lost, "XID 79".into()));
        let gone = Observed { lost: Some(Lost::Gone), ..UNKNOWN };
        assert_eq!(history.judge(gone, u64::MAX).1, "XID 79", "more specific than lost");
        assert_eq!(history.xid_errors, 4);
    }

    #[test]
    fn a_recovery_action_is_named_with_and_without_an_xid() {
        for (action, health, name) in [
            (1, GpuHealth::Lost, "GPU reset"),
            (2, GpuHealth::Lost, "node reboot"),
            (3, GpuHealth::Degraded, "drain P2P"),
            (4, GpuHealth::Degraded, "drain and reset"),
            (9, GpuHealth::Degraded, "number 9"),
        ] {
            let mut history = History::default();
            let reason = format!("the driver's recovery action is {name}");
            assert_eq!(history.judge(with_action(action), 0), (health, reason.clone()));
            history.record(95, 1);
            history.record(154, 2);
            assert_eq!(history.judge(with_action(action), u64::MAX), (health, format!("{reason} (XID 95)")));
        }
    }

    #[test]
    fn without_a_recovery_action_a_fatal_xid_expires() {
        let mut history = History::default();
        history.record(48, 10);
        assert_eq!(history.judge(UNKNOWN, 11), (GpuHealth::Lost, "XID 48".into()), "an old driver");
        assert_eq!(history.judge(with_action(0), 11), (GpuHealth::Degraded, "XID 48".into()));
        let later = 10 + RECOVERABLE_FOR.as_nanos() as u64;
        assert_eq!(history.judge(with_action(0), later), (GpuHealth::Ok, String::new()));
        let gone = Observed { lost: Some(Lost::Gone), ..with_action(0) };
        assert_eq!(history.judge(gone, later), (GpuHealth::Lost, "XID 48".into()), "a lost GPU stays lost");
    }

    #[test]
    fn a_change_of_the_recovery_action_to_none_is_no_error() {
        let mut history = History::default();
        history.record(154, 1);
        assert_eq!(history.judge(with_action(0), 2), (GpuHealth::Ok, String::new()));
        assert_eq!(history.judge(UNKNOWN, 2), (GpuHealth::Lost, "XID 154".into()));
    }

    #[test]
    fn only_faulty_throttling_degrades() {
        let history = History::default();
        let throttled = |reasons| Observed { throttling: Some(reasons), ..UNKNOWN };
        let limit = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE;
        assert_eq!(history.judge(throttled(limit), 0).0, GpuHealth::Ok);
        let hot = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        let (health, reason) = history.judge(throttled(hot), 0);
        assert_eq!((health, reason.as_str()), (GpuHealth::Degraded, "throttled: hw_thermal_slowdown"));
        let gone = Observed { lost: Some(Lost::Gone), ..throttled(limit) };
        assert_eq!(history.judge(gone, 0).0, GpuHealth::Lost);
        let (health, reason) = history.judge(Observed { lost: Some(Lost::NeedsReset), ..UNKNOWN }, 0);
        assert_eq!((health, reason.as_str()), (GpuHealth::Lost, "the driver requires a reset of the GPU"));
    }
}
