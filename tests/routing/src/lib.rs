//! Simulates vLLM engines, agents, and clients in virtual time, and drives a [`Router`] with them.
//!
//! A run is a pure function of trace, conditions, router, and seed: no wall clock, no threads, no unordered iteration.
//!
//! - [`engine`]: one engine with its scheduler, KV cache, gauges, and the kernel's view of its sockets.
//! - [`trace`]: requests from trace files and generators.
//! - [`router`]: what a router is given and what it decides.
//! - [`run`]: the event loop and the conditions that disturb it.
//! - [`report`]: percentiles of a run, medians over seeds, tables.
//! - [`wire`]: the same interface as JSON lines, for simulators and routers outside this process.

pub mod engine;
mod hashing;
pub mod report;
pub mod router;
pub mod run;
pub mod trace;
pub mod wire;

pub use engine::EngineSpec;
pub use report::{Report, Summary};
pub use router::{
    BlockHash, EndpointId, EngineView, KernelView, Member, Outcome, Request, RequestId, Router, Signals,
    Time, Totals, UNIT_TOKENS,
};
pub use run::{Conditions, RunError, RunResult, Scenario, run};
pub use trace::Trace;
