//! Forebay's data plane.
//!
//! The modules are the steps of a request: [`accept`], [`extract`], `route`,
//! `pick`, `forward`, [`answer`]; `observe` watches all of them.
#![forbid(unsafe_code)]

pub mod answer;
mod error;
pub mod extract;

pub use error::{Error, PickerFault, Retry, Source};
