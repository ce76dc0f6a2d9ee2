//! A fleet for the tests, and every view of it as text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scene;
mod views;

pub(super) use scene::scene;
