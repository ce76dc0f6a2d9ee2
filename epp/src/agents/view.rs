use std::{net::SocketAddr, time::Duration};

/// State of the connection to an agent at one time.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// Address of the agent's telemetry service.
    pub address: SocketAddr,
    /// Name of the node. Empty before the first snapshot.
    pub node: String,
    /// Whether the telemetry stream is open.
    pub connected: bool,
    /// Time since the newest frame. `None` before the first.
    pub frame_age: Option<Duration>,
    /// Pools that get the agent's frames.
    pub pools: usize,
}
