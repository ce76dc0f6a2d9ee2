//! Reads the `model` field out of a request body while the body streams in.
//!
//! The decision is made at the first certain moment; the scan goes on to the
//! end of the root object, because the engines' parsers take the *last* of
//! several `model` members: a gateway that stopped at the first would authorise
//! one model and let another run.

mod block;
mod body;
mod encoding;
mod error;
mod form;
mod model_name;
mod nested;
mod response;
mod scanner;
mod splice;
mod string;

pub use body::{BodyScanner, EncodedBody, PlainScanner};
pub use error::BodyError;
pub use form::FormScanner;
pub use model_name::{MAX_MODEL_NAME_BYTES, ModelName};
pub use scanner::{MAX_DEPTH, ModelScanner, Progress};
pub use splice::Splicer;

pub use nested::Nested;
pub use response::{Finding, ResponseFormat, ResponseScanner, Restore, Usage};
pub use splice::json_string;
pub use string::{Piece, Skip, Unescape, skip_string};

#[cfg(test)]
mod tests;
