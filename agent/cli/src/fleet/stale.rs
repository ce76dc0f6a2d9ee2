//! When values are shown as old.

use std::time::Duration;

/// Three heartbeats without a confirmation.
pub(super) const STALE: Duration = Duration::from_secs(3);
/// Longer than the longest interval of an agent's scrapes.
pub(super) const ENGINE_STALE: Duration = Duration::from_secs(5);
