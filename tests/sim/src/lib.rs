//! Simulator of a vLLM server for machines without a GPU. It reproduces the bytes, the TCP segments, the errors and
//! the delayed metrics that were recorded from vLLM 0.32.
//!
//! A second listener serves exact counters without delay ([`Truth`]). Tests compare other counters with them.

mod bodies;
mod engine;
mod live;
mod metrics;
mod other;
mod output;
mod prompt;
mod request;
mod responses_api;
mod server;
mod speed;
mod steps;
mod truth;
mod wire;

pub use engine::{Engine, EngineOptions};
pub use server::{Server, ServerOptions};
pub use truth::{Truth, TruthCounters};
