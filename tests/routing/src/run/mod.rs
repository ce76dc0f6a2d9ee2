//! The event loop: clients, replicas of the router, engines, and agents in virtual time.

mod agents;
mod conditions;
mod events;
mod replicas;
mod requests;
mod result;
mod simulation;

pub use conditions::{AgentsGone, Change, ChangeKind, Conditions, ReplicaRestart, Scenario};
pub use result::{RequestRecord, RunResult};

use crate::{
    router::{EndpointId, RequestId, Router},
    trace::Trace,
};
use simulation::Simulation;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error(
        "the router picked endpoint {} for request {}, which is not a member of the pool",
        .endpoint.0, .request.0
    )]
    NotAMember { request: RequestId, endpoint: EndpointId },
    #[error("invalid conditions: {0}")]
    Conditions(&'static str),
}

/// Runs a trace to the end of its last request. `make_router` is called with the index of the replica, again when that
/// replica restarts.
pub fn run(
    trace: &Trace,
    conditions: &Conditions,
    seed: u64,
    make_router: &mut dyn FnMut(usize) -> Box<dyn Router>,
) -> Result<RunResult, RunError> {
    conditions.check()?;
    Simulation::new(trace, conditions, seed, make_router).run()
}
