//! Forebay's data plane.
//!
//! The modules are the steps of a request: `accept`, [`extract`], `route`,
//! `pick`, `forward`, [`answer`]; `request` is the way through them and
//! `observe` watches all of it. A request is one task, from its first byte to its answer's last, and stays on one of
//! the `workers`.
#![forbid(unsafe_code)]

mod accept;
pub mod answer;
mod config;
mod error;

mod filter;
mod forward;
mod gateway;
mod hold;
mod interest;
mod observe;
mod patience;
mod pick;
mod request;
mod rewrite;

mod status;
mod workers;

pub use config::Config;
pub use error::{Error, PickerFault, Rejection, Retry, Source};
pub use forward::Broken;
pub use gateway::{Gateway, StartError};
pub use hold::RestError;
pub use interest::READ_RULES;
pub use pick::{PickerTls, PickerTlsError, PickerTlsFlags, ResponseBodies};
pub use status::{STATUS_RULES, WRITE_RULES};
