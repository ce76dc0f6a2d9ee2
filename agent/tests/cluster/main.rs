//! The store, filled from a real API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod changes;
#[cfg(all(feature = "cli", feature = "node"))]
mod check;
mod kinds;
mod outage;
#[cfg(feature = "node")]
mod roles;
mod support;
