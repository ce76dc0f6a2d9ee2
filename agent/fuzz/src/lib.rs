//! Fuzz targets of the agent and of the resources that all programs read. Each is a function that panics on a fault.
#![allow(clippy::unwrap_used, reason = "a fault is a panic")]

mod manifests;
mod metrics;
mod model_map;
mod recordings;
mod samples;

pub use manifests::manifests;
pub use metrics::metrics;
pub use model_map::model_map;
pub use recordings::recordings;
