//! Copies of the current state, for metrics, the admin page and tests.

use std::time::Duration;

use forebay_resources::PoolEndpoint;
use forebay_telemetry::v1::{Liveness, LivenessState};

use super::engine::PrefixHits;

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
    /// Its requests fail. Such an endpoint is probed by single requests while others work.
    pub failing: bool,
    /// The agent's verdict on the engine. `None` if it is missing or stale.
    pub liveness: Option<Liveness>,
    /// Time since the verdict changed.
    pub liveness_age: Option<Duration>,
    /// Own picks whose requests have not ended.
    pub open_picks: u64,
    /// Own open picks whose responses have no first byte yet, as far as it is reported.
    pub waiting_picks: u64,
    /// Own open picks that the kernel's count does not contain.
    pub picks_not_in_kernel: u64,
    /// The kernel's count. `None` without one.
    pub kernel_in_flight: Option<u64>,
    /// Time since the kernel's count was last confirmed.
    pub kernel_age: Option<Duration>,
    /// Requests that the engine runs.
    pub engine_running: Option<u32>,
    /// Requests in the engine's queue.
    pub engine_waiting: Option<u32>,
    /// Share of the engine's KV cache in use, 0 to 1.
    pub engine_kv_usage: Option<f64>,
    /// The engine's gauges are not too old to be used.
    pub engine_is_fresh: bool,
    /// Time since the engine's gauges were last confirmed.
    pub engine_age: Option<Duration>,
    /// Predicted and measured hits of the prefix cache.
    pub prefix_hits: PrefixHits,
    /// Share of the believed prefix hits that are expected, 0 to 1.
    pub prefix_belief: f64,
}

impl EndpointView {
    /// Why the endpoint gets no requests, or few. `None`: it gets its share.
    pub fn avoided_because(&self) -> Option<&'static str> {
        let doubt = self.liveness.as_ref().and_then(Liveness::explanation);
        if self.gpu_lost { Some("a GPU of the pod is lost") } else { doubt }
            .or_else(|| self.failing.then_some("its last requests failed"))
    }

    /// Whether the agent says that the engine is in this state.
    pub fn is(&self, state: LivenessState) -> bool {
        self.liveness.is_some_and(|liveness| liveness.state() == state)
    }
}
