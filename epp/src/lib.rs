//! Forebay's endpoint picker: which pod of an InferencePool gets a request.
//!
//! [`Picker`] answers that in process. [`Server`] answers it to any gateway that
//! speaks the Endpoint Picker Protocol ([`protocol`]).

#![forbid(unsafe_code)]

mod agent_tls;
pub mod endpoints;
mod error;
mod interest;
mod observe;
mod picker;
pub mod protocol;
pub mod schedule;
mod serve;

pub use agent_tls::AgentTlsFlags;
pub use error::{Error, Source};
pub use interest::{AGENT_RULES, POOL_RULES, interest};
pub use observe::{Metrics, PoolMetrics};
pub use picker::{DEFAULT_AGENT_PORT, DEFAULT_AGENT_SELECTOR, Picker, PickerOptions};
pub use serve::{Server, ServerOptions};
