//! `forebay top`, `dashboard`, `record` and the lists, against a real telemetry service.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and measures, and fails by panicking"
)]

mod agent;
mod browser;
mod dashboard;
mod lists;
mod program;
mod requests;
mod site;
mod top;
