//! `forebay top`, `dashboard`, `record` and the lists, against a real telemetry service.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod browser;
mod chromium;
mod dashboard;
mod lists;
mod program;
mod site;
mod tmux;
mod top;
