//! End-to-end tests of all programs of Forebay.
//!
//! [`pod`] makes cgroups that look like pods', [`harness`] starts the programs as processes on the manifests of a
//! cluster, [`load`] is the client.

pub mod harness;
pub mod load;
pub mod pod;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum wait for a condition.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// While it is held, other tests of the same binary wait here.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a condition is true.
///
/// # Panics
/// When the condition is not true within [`TIMEOUT`].
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(TIMEOUT, condition), "not within {TIMEOUT:?}: {what}");
}

/// Waits until a condition is true. Returns false when it is not true within `timeout`.
pub fn within(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::yield_now();
    }
}
