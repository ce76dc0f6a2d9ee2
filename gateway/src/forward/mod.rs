//! Sends requests to endpoints: connections, connection pools, retries, and mirrors.

mod connection_pool;
mod error;
mod h2;
mod http1;
mod mirror;
mod pooled_body;
mod send;

pub(crate) use connection_pool::ConnectionPool;
pub(crate) use error::{Error, ExchangeError};
pub(crate) use h2::H2Connections;
pub(crate) use http1::{Decoded, Incoming};
pub(crate) use mirror::Mirrors;
pub(crate) use pooled_body::PooledBody;
pub(crate) use send::{Forwarded, Forwarder, SendPlan};
