//! To the pod: connections, and what may be tried again.

mod body;
mod broken;
mod h2;
mod http1;
mod mirror;
mod pool;
mod send;

pub(crate) use body::PooledBody;
pub use broken::Broken;
pub(crate) use h2::{H2Connection, H2Connections};
pub(crate) use http1::Connection;
pub(crate) use mirror::Mirrors;
pub(crate) use pool::Pool;
pub(crate) use send::{Forwarded, Forwarder, Route};
