//! The data plane of Forebay: a gateway that forwards OpenAI requests to inference endpoints.
//!
//! A request is one task on one of the workers ([`runtime`]). It passes these modules, each of which imports only modules
//! below it:
//!
//! | module | task |
//! |---|---|
//! | [`gateway`] | starts everything and applies snapshots of the resources |
//! | [`status`], [`interest`] | statuses and Services in the cluster, and what is watched there |
//! | [`request`] | the stages of a request |
//! | [`accept`] | listeners and client connections |
//! | [`response`], [`models`] | the body of a response, the list of models |
//! | [`error`] | maps errors of all steps to responses |
//! | [`pick`] | asks endpoint pickers, or schedules in this process |
//! | [`forward`] | sends requests to endpoints, with retries |
//! | [`auth`] | keys, tokens and authorization rules of policies |
//! | [`jwks`] | loads the keys of tokens |
//! | [`limit`] | rate limits of policies |
//! | [`hold`] | holds request bodies within the hold budget |
//! | [`observe`] | metrics, traces, access log |
//! | [`headers`], [`runtime`] | rules for headers; threads and timers |
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![allow(rustdoc::private_intra_doc_links, reason = "the table above describes the private modules")]

mod accept;
mod auth;
mod config;
mod error;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod headers;
mod hold;
mod interest;
mod jwks;
mod limit;
mod models;
mod observe;
mod pick;
#[cfg(test)]
mod reference;
mod request;
mod response;
mod runtime;
mod server_tls;
mod status;
mod tls_verifier;

pub use config::{Config, PickerOptionsError};
pub use gateway::{Gateway, StartError};
pub use interest::READ_RULES;
pub use pick::{PickerTls, PickerTlsError, PickerTlsFlags, ResponseBodies};
pub use request::StreamUsage;
pub use status::{STATUS_RULES, WRITE_RULES};
