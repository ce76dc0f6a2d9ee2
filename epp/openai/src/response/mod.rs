//! Reads OpenAI responses while they pass: usage and events ([`ResponseScanner`]), and the model name ([`Restore`]).

mod format;
mod restore;
mod tokens;
mod usage;
mod usage_finder;

pub use format::ResponseFormat;
pub use restore::Restore;
pub use tokens::Usage;
pub use usage::{EventScanner, Finding, JsonScanner, ResponseScanner};
