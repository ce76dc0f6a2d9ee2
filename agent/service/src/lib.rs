//! What every Forebay program has: a log, an admin HTTP server, and mutual TLS.

pub mod admin;
pub mod log;
pub mod tls;
