//! The node daemon as a library, so that tests and benchmarks can start its parts:
//! the kernel programs, the GPUs, the engine scrape, and the telemetry service.

pub mod discover;
pub mod engine;
pub mod gpu;
pub mod kernel;
pub mod node;
pub mod publish;
