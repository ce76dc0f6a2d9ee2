//! Reads OpenAI responses while they pass: usage and events ([`ResponseScanner`]). Restores the model name
//! ([`Restore`]), and removes usage that the client did not ask for ([`UsageFilter`]).

mod format;
mod restore;
mod tokens;
mod usage;
mod usage_filter;
mod usage_finder;

pub use format::ResponseFormat;
pub use restore::Restore;
pub use tokens::Usage;
pub use usage::{EventScanner, Finding, JsonScanner, ResponseScanner};
pub use usage_filter::UsageFilter;
