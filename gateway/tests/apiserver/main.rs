//! Gateways with a real API server and exactly the RBAC rules that they need.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod events;
mod harness;
mod quotas;
mod reinstall;
mod statuses;
