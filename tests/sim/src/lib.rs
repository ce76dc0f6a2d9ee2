//! A vLLM server on the wire, for where no GPU exists: the bytes, the segments they
//! come in, the errors, and the metrics with their lag, as recorded from vLLM 0.32.
//!
//! Beside what vLLM has, a second listener tells the truth ([`Truth`]): what was
//! really served, at this moment, without lag. Tests hold other counts against it.

mod api;
mod engine;
mod metrics;
mod other;
mod prompt;
mod responses;
mod server;
mod truth;
mod wire;

pub use engine::{Engine, EngineOptions};
pub use server::{Server, ServerOptions};
pub use truth::{Truth, TruthCounters};
