//! What every Forebay program has: log, admin HTTP server, mutual TLS, shutdown on signals.
#![warn(missing_docs)]

pub mod admin;
pub mod log;
pub mod shutdown;
pub mod tls;
