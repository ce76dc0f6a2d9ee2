//! Gateways with a real API server and exactly the RBAC rules that they need.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on shall panic, and prints what it measures"
)]

mod events;
mod harness;
mod keys;
mod quotas;
mod reinstall;
mod statuses;
