//! Copies of the current state, for metrics, the admin page and tests.

use std::{net::SocketAddr, time::Duration};

use forebay_resources::PoolEndpoint;

/// Where the load of an endpoint comes from, best source first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LoadSource {
    /// Requests counted at the pod's sockets, plus own picks that the count does not contain yet.
    Kernel,
    /// The engine's gauges, plus own picks that they do not contain yet.
    Engine,
    /// Own open picks only.
    Local,
}

impl LoadSource {
    /// Name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Engine => "engine",
            Self::Local => "local",
        }
    }
}

/// State of an endpoint at one time.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Address and pod.
    pub endpoint: PoolEndpoint,
    /// Requests in flight, according to `source`.
    pub load: u64,
    /// Where `load` comes from.
    pub source: LoadSource,
    /// Seconds that a request with an empty prompt would add to the waiting of all (`added-waiting-scorer`).
    pub added_waiting: f32,
    /// A GPU of the pod is lost. Such an endpoint is not picked.
    pub gpu_lost: bool,
    /// Own picks whose requests have not ended.
    pub open_picks: u64,
    /// Own open picks whose responses have no first byte yet, as far as it is reported.
    pub waiting_picks: u64,
    /// Own open picks that the kernel's count does not contain.
    pub picks_not_in_kernel: u64,
    /// The kernel's count. `None` if there is none.
    pub kernel_in_flight: Option<u64>,
    /// Time since the kernel's count was last confirmed.
    pub kernel_age: Option<Duration>,
    /// Requests that the engine runs.
    pub engine_running: Option<u32>,
    /// Requests in the engine's queue.
    pub engine_waiting: Option<u32>,
    /// Time since the engine's gauges were last confirmed.
    pub engine_age: Option<Duration>,
}

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
}
