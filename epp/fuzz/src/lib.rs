//! Fuzz targets of the libraries that the picker and the gateway share. Each is a function that panics on a fault.
#![allow(clippy::unwrap_used, reason = "a fault is a panic")]

mod encoding;
mod form;
mod form_reference;
mod grpc;
mod json;
mod json_reference;
mod outcome;
mod prompt;
mod prompt_message;
mod response;
mod sse_reference;

pub use encoding::encoding;
pub use form::form;
pub use grpc::grpc;
pub use json::json;
pub use prompt::prompt;
pub use prompt_message::prompt_message;
pub use response::response;
