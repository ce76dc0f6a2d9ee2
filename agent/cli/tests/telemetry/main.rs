//! `forebay top`, `record` and the lists, against a real telemetry service.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod lists;
mod program;
mod tmux;
mod top;
