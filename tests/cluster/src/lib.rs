//! What the tests in a real cluster share: its tools, the guide's steps, the load.
//!
//! `cargo xtask test --cluster` starts the cluster and runs them in its network, with
//! `FOREBAY_CLUSTER` and `KUBECONFIG` set. Without a cluster they say that they are
//! skipped.

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
    probe::{Answered, Durations, Probe, Reached},
    traffic::{Answer, Traffic, chat},
};

/// How long anything may take before a check fails: two busy cores run a whole
/// cluster and the tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `look` gives something.
///
/// # Panics
/// With what it saw last, when that takes longer than [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "never happened: {what}; seen last: {seen}"),
        }
        std::thread::sleep(PAUSE);
    }
}
