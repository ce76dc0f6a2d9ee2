//! Forebay's parts together.
//!
//! [`pod`] makes scratch pods (cgroups, sockets born in them, a bpffs), [`stage`]
//! runs the programs as processes on the manifests that a cluster would have,
//! [`load`] is the client, [`demo`] shows and checks the main job.

pub mod demo;
pub mod load;
pub mod pod;
pub mod stage;

use std::time::{Duration, Instant};

/// How long anything may take before a check fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition, not for a time.
///
/// # Panics
/// When it does not come about within [`PATIENCE`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}
