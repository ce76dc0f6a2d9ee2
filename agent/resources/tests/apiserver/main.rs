//! The store, filled from a real API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod changes;
mod kinds;
mod outage;
