//! Every view of a fleet as text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod views;
