//! Fuzz targets of `forebay-gateway`. Each is a function that panics on a fault.
#![allow(clippy::unwrap_used, reason = "a fault is a panic")]

mod http1;
mod hyper_client;
mod path;
mod routes;

pub use http1::http1;
pub use path::path;
pub use routes::routes;
