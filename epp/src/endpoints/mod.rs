//! The endpoints of a pool and their load.
//!
//! The load has three sources, best first:
//!
//! 1. The kernel's count at the pod's sockets. It contains the requests of all gateways.
//! 2. The engine's gauges.
//! 3. The picks of this process.
//!
//! Every value has an age. A stale value is replaced by the next source, so an agent that stops sending never stops
//! traffic.

mod adapters;
mod cell;
mod engine;
mod ledger;
mod liveness;
mod models;
mod pool;
mod reports;
mod snapshot;
mod state;
mod view;
mod waiting;

#[cfg(test)]
pub(crate) use self::{adapters::Adapters, cell::Numbers};
pub(crate) use self::{
    cell::Cell,
    ledger::{PickId, Work},
    models::ServedModels,
    reports::address_of,
    snapshot::Snapshot,
    waiting::{Prompt, added_waiting},
};
pub use self::{
    engine::PrefixHits,
    pool::Endpoints,
    state::Outcome,
    view::{EndpointView, LoadSource},
};
