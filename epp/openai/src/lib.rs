//! Reads and rewrites the `model` of OpenAI request and response bodies while they stream.
//!
//! - [`BodyScanner`] finds the model of a request, [`Splicer`] replaces it.
//! - [`PromptScanner`] hashes the prompt of a request and reads what else matters for scheduling.
//! - [`GenerationOptions`] says how long the output may get, and adds usage to streams.
//! - [`ResponseScanner`] finds token usage and events of a response, [`Restore`] replaces its model, [`UsageFilter`] removes
//!   usage that the client did not ask for.
//!
//! The scanner knows the model before the body ends, but reads the root object to its end: the engines' parsers use the
//! *last* of several `model` members. A gateway that stopped at the first one would authorise one model and let another
//! one run.
#![warn(missing_docs)]

mod block;
mod body;
mod encoding;
mod error;
mod form;
mod generation;
mod limits;
mod model_name;
mod nested;
mod parameters;
mod plain;
mod prompt;
mod response;
mod scanner;
mod splice;
mod string;

pub use body::{BodyScanner, EncodedBody};
pub use error::BodyError;
pub use form::FormScanner;
pub use generation::GenerationOptions;
pub use limits::{MAX_DEPTH, MAX_MODEL_NAME_BYTES};
pub use model_name::ModelName;
pub use plain::PlainScanner;
pub use prompt::{
    MAX_CACHE_SALT_BYTES, MAX_PROMPT_BLOCKS, PROMPT_BLOCK_BYTES, PromptScanner, RequestKind, prompt_seed,
    seeded_block,
};
pub use response::{
    EventScanner, Finding, JsonScanner, ResponseFormat, ResponseScanner, Restore, Usage, UsageFilter,
};
pub use scanner::{ModelScanner, Progress};
pub use splice::Splicer;

#[cfg(test)]
mod tests;
