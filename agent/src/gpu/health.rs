//! Derives a GPU's health from XID errors, throttling and lost devices.

use std::time::Duration;

use nvml_wrapper::bitmasks::device::ThrottleReasons;

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

pub(super) fn severity(xid: u64) -> Severity {
    match xid {
        // 48 double-bit ECC, 62 halted PMU, 64 row remapper failure, 74 NVLink,
        // 79 off the bus, 95 uncontained ECC, 119 and 120 GSP, 140 unrecovered ECC,
        // 142 and 143 recovery needed, 154 recovery action changed.
        48 | 62 | 64 | 74 | 79 | 95 | 119 | 120 | 140 | 142 | 143 | 154 => Severity::Fatal,
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

/// XID errors of one GPU.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) xid_errors: u64,
    /// XID and CLOCK_BOOTTIME nanoseconds.
    pub(super) last_xid: Option<(u64, u64)>,
    /// Kept until the agent restarts.
    fatal_xid: Option<u64>,
    /// The newest recoverable XID, and when it expires (CLOCK_BOOTTIME nanoseconds).
    recoverable: Option<(u64, u64)>,
}

impl History {
    pub(super) fn record(&mut self, xid: u64, at_ns: u64) {
        self.xid_errors += 1;
        self.last_xid = Some((xid, at_ns));
        match severity(xid) {
            Severity::Fatal => self.fatal_xid = Some(xid),
            Severity::Recoverable => {
                self.recoverable = Some((xid, at_ns + RECOVERABLE_FOR.as_nanos() as u64));
            }
            Severity::Application => {}
        }
    }

    /// Returns the health, and the reason if it is not OK.
    pub(super) fn judge(
        &self,
        lost: Option<Lost>,
        throttling: Option<ThrottleReasons>,
        now_ns: u64,
    ) -> (GpuHealth, String) {
        // The XID has priority: it is the cause of a lost GPU.
        if let Some(xid) = self.fatal_xid {
            return (GpuHealth::Lost, format!("XID {xid}"));
        }
        match lost {
            Some(Lost::Gone) => return (GpuHealth::Lost, "the driver reports the GPU as lost".into()),
            Some(Lost::NeedsReset) => {
                return (GpuHealth::Lost, "the driver requires a reset of the GPU".into());
            }
            None => {}
        }
        if let Some((xid, until_ns)) = self.recoverable
            && now_ns < until_ns
        {
            return (GpuHealth::Degraded, format!("XID {xid}"));
        }
        let faulty = throttling.unwrap_or(ThrottleReasons::NONE) & FAULTY_THROTTLING;
        if !faulty.is_empty() {
            return (GpuHealth::Degraded, format!("throttled: {}", names(faulty).join(", ")));
        }
        (GpuHealth::Ok, String::new())
    }
}

/// Names of NVML's clocks event reasons, in lower snake case.
pub(super) fn names(reasons: ThrottleReasons) -> Vec<String> {
    reasons.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fatal_xid_is_permanent_and_recoverable_xid_expires() {
        let mut history = History::default();
        assert_eq!(history.judge(None, None, 0), (GpuHealth::Ok, String::new()));
        history.record(31, 1);
        assert_eq!(history.judge(None, None, 2).0, GpuHealth::Ok, "caused by the application");
        history.record(94, 10);
        history.record(13, 10);
        assert_eq!(history.judge(None, None, 11), (GpuHealth::Degraded, "XID 94".into()));
        let later = 10 + RECOVERABLE_FOR.as_nanos() as u64;
        assert_eq!(history.judge(None, None, later).0, GpuHealth::Ok);
        history.record(79, later);
        assert_eq!(history.judge(None, None, u64::MAX), (GpuHealth::Lost, "XID 79".into()));
        assert_eq!(history.judge(Some(Lost::Gone), None, u64::MAX).1, "XID 79", "more specific than lost");
        assert_eq!(history.xid_errors, 4);
    }

    #[test]
    fn only_faulty_throttling_degrades() {
        let history = History::default();
        let limit = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE;
        assert_eq!(history.judge(None, Some(limit), 0).0, GpuHealth::Ok);
        let hot = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        let (health, reason) = history.judge(None, Some(hot), 0);
        assert_eq!((health, reason.as_str()), (GpuHealth::Degraded, "throttled: hw_thermal_slowdown"));
        assert_eq!(history.judge(Some(Lost::Gone), Some(limit), 0).0, GpuHealth::Lost);
        let (health, reason) = history.judge(Some(Lost::NeedsReset), None, 0);
        assert_eq!((health, reason.as_str()), (GpuHealth::Lost, "the driver requires a reset of the GPU"));
    }
}
