//! End-to-end tests of all programs of Forebay.
//!
//! [`pod`] makes cgroups that look like pods', [`harness`] starts the programs as processes on the manifests of a
//! cluster, [`load`] is the client.

pub mod harness;
pub mod load;
pub mod pod;

use std::time::{Duration, Instant};

/// Maximum wait for a condition.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until a condition is true.
///
/// # Panics
/// When the condition is not true within [`TIMEOUT`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        std::thread::yield_now();
    }
}
