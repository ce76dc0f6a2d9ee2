//! Gateways against a real API server, with the roles that they need and nothing more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod stage;
mod statuses;
