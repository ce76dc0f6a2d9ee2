//! To the pod: connections, and what may be tried again.

mod body;
mod connection;
mod pool;
mod send;

pub(crate) use body::PooledBody;
pub(crate) use connection::Connection;
pub(crate) use pool::Pool;
pub(crate) use send::{Forwarded, Forwarder};
