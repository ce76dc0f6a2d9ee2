//! To the pod: connections, and what may be tried again.

mod body;
mod connection;
mod h2;
mod mirror;
mod pool;
mod send;

pub(crate) use body::PooledBody;
pub(crate) use connection::Connection;
pub(crate) use h2::H2Connections;
pub(crate) use mirror::Mirrors;
pub(crate) use pool::Pool;
pub(crate) use send::{Forwarded, Forwarder, Route};
