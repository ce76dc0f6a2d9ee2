//! Helpers of the tests in the Kubernetes cluster: tools, the steps of the guide, traffic.
//!
//! `cargo xtask test --cluster` starts the cluster and runs the tests in its network namespace, with `FOREBAY_CLUSTER`
//! and `KUBECONFIG` set. Without a cluster the tests are skipped.

pub mod charts;
mod cluster;
pub mod downloads;
pub mod guide;
mod objects;
mod probe;
mod traffic;

use std::time::{Duration, Instant};

pub use self::{
    cluster::{Cluster, cluster},
    objects::Objects,
    probe::{Durations, Probe, Reached, Response},
    traffic::{ChatResponse, Traffic, chat},
};

/// Maximum wait for a condition. Long, because two cores run the cluster and the tests.
pub const TIMEOUT: Duration = Duration::from_secs(120);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Waits until `check` succeeds. Returns its result.
///
/// # Panics
/// After [`TIMEOUT`], with the last error.
pub fn until<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match check() {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}; last: {last}"),
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
