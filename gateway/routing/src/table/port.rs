//! Listener ports.

use std::fmt;
use std::sync::Arc;

use forebay_resources::ObjectKey;

/// Whether Gateways that name the same port share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSharing {
    /// All Gateways use this machine's addresses: a port is opened once for all of them.
    Shared,
    /// Each Gateway has its own address.
    PerGateway,
}

/// A port as Gateways name it. The port that is opened for it may have another number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerPort {
    /// `spec.listeners[].port`.
    pub port: u16,
    /// `None` where Gateways share their ports.
    pub gateway: Option<Arc<ObjectKey>>,
}

impl ListenerPort {
    /// The port of a listener of `gateway`.
    pub fn new(gateway: &ObjectKey, port: u16, sharing: PortSharing) -> Self {
        let gateway = match sharing {
            PortSharing::Shared => None,
            PortSharing::PerGateway => Some(Arc::new(gateway.clone())),
        };
        Self { port, gateway }
    }
}

impl fmt::Display for ListenerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.gateway {
            None => write!(f, "port {}", self.port),
            Some(gateway) => write!(f, "port {} of Gateway {gateway}", self.port),
        }
    }
}
