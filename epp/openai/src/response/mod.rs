//! Reads OpenAI responses while they pass: usage and events ([`ResponseScanner`]), and the model name ([`Restore`]).

mod format;
mod restore;
mod usage;

pub use format::ResponseFormat;
pub use restore::Restore;
pub use usage::{EventScanner, Finding, ResponseScanner, Usage};
