//! `forebay keys` against a real API server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod create;
mod gateway;
mod program;
mod rotate;
mod show;
