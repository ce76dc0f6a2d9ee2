//! Addresses of agents.

use std::net::SocketAddr;

/// An agent to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// For messages and tables.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { name: address.to_string(), address }
    }
}
