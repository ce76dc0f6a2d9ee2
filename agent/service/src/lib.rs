//! What every Forebay program has: log, admin HTTP server, listeners with places per peer, mutual TLS, shutdown on signals.
#![warn(missing_docs)]

pub mod admin;
pub mod incoming;
pub mod log;
pub mod places;
pub mod shares;
pub mod shutdown;
pub mod tls;
