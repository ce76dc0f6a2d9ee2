//! Recognises endpoints whose sockets the kernel programs do not see, so that their load is not reported as zero.
//!
//! The agent's own scrapes tell: a scrape that begins after the programs were attached is in the counters before its
//! response arrives. The runtime class alone tells nothing, because `nvidia` and others run ordinary containers.

use std::time::Duration;

/// Time after which an answered scrape must be visible, for a pod without a runtime class.
const BLIND_AFTER: Duration = Duration::from_secs(10);
const ELSEWHERE: &str = "the engine responds, but the cgroup of the pod has no traffic: its sockets are elsewhere, as with gVisor or Kata";

/// What is known of an endpoint apart from its counters.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// CLOCK_BOOTTIME since which it is watched.
    pub(super) watched_since_ns: u64,
    /// Of its pod.
    pub(super) runtime_class: Option<String>,
}

impl Sight {
    /// Why the counters do not tell the load: nothing was counted, although a scrape that began at `scraped_ns` was
    /// answered. With a runtime class, also while no scrape tells whether the pod is in a sandbox.
    pub(super) fn blindness(&self, bytes: u64, scraped_ns: Option<u64>) -> Option<String> {
        if bytes > 0 {
            return None;
        }
        let is_answered_after = |pause: Duration| {
            let since_ns = self.watched_since_ns.saturating_add(pause.as_nanos() as u64);
            scraped_ns.is_some_and(|at| at > since_ns)
        };
        match &self.runtime_class {
            Some(class) if is_answered_after(Duration::ZERO) => Some(format!(
                "cannot see: runtime class {class} runs the pod in a sandbox (the engine responds, but the cgroup of the pod has no traffic)"
            )),
            Some(class) => Some(format!(
                "not seen yet: runtime class {class} may run the pod in a sandbox, and the engine was not scraped since the pod is watched"
            )),
            None => is_answered_after(BLIND_AFTER).then(|| ELSEWHERE.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn sight(runtime_class: Option<&str>) -> Sight {
        Sight { watched_since_ns: SECOND, runtime_class: runtime_class.map(str::to_owned) }
    }

    #[test]
    fn an_answered_scrape_that_the_kernel_did_not_see_makes_an_endpoint_blind() {
        let pod = sight(None);
        assert_eq!(pod.blindness(0, None), None, "the engine is not scraped");
        assert_eq!(pod.blindness(0, Some(2 * SECOND)), None);
        assert_eq!(pod.blindness(0, Some(12 * SECOND)).as_deref(), Some(ELSEWHERE));
        assert_eq!(pod.blindness(1, Some(12 * SECOND)), None);
    }

    #[test]
    fn the_runtime_class_is_named_at_once_but_only_if_nothing_is_seen() {
        let sandboxed = sight(Some("gvisor"));
        let reason = sandboxed.blindness(0, Some(SECOND + 1)).unwrap();
        assert!(reason.starts_with("cannot see: runtime class gvisor runs the pod in a sandbox"), "{reason}");
        for older in [None, Some(SECOND)] {
            let reason = sandboxed.blindness(0, older).unwrap();
            assert!(reason.starts_with("not seen yet: runtime class gvisor"), "{reason}");
        }
        assert_eq!(sight(Some("nvidia")).blindness(1, Some(SECOND + 1)), None);
    }
}
