//! The interface between the simulator and the code that chooses endpoints.

mod request;
mod signals;
mod time;

pub use request::{BlockHash, Request, RequestId, UNIT_TOKENS};
pub use signals::{EngineView, KernelView, Signals, Totals};
pub use time::Time;

use serde::{Deserialize, Serialize};

/// Index of an endpoint in the run. Stays the same when its engine restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(pub u32);

/// A ready member of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub endpoint: EndpointId,
    /// Increases when the pod is replaced. A new incarnation starts with an empty cache.
    pub incarnation: u32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All output tokens were received.
    Completed,
    /// The engine or its pod failed, or rejected the request.
    Failed,
    /// The client gave up: no first byte, or a stream without progress, for the client's timeout.
    TimedOut,
}

/// Chooses endpoints. One instance per replica; a replica sees its own requests and the signals of all endpoints.
pub trait Router {
    /// Replaces the members of the pool. The first call comes before the first pick.
    fn set_members(&mut self, now: Time, members: &[Member]);

    /// New signals of one endpoint, which left its node earlier by the network delay (see their `measured_at`).
    fn observe(&mut self, now: Time, endpoint: EndpointId, signals: &Signals);

    /// Chooses a member for the request. The request is sent at once.
    fn pick(&mut self, now: Time, request: &Request) -> EndpointId;

    /// The first response byte of an own request.
    fn first_byte(&mut self, now: Time, request: RequestId);

    /// The end of an own request. Called exactly once per pick, unless this replica was restarted in between.
    fn end(&mut self, now: Time, request: RequestId, outcome: Outcome);

    /// Scores of the last pick, if the router has them: higher is better.
    fn scores(&self) -> Option<Vec<(EndpointId, f64)>> {
        None
    }
}
