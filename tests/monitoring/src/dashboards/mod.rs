//! The dashboards. A new one: a file here, and a line in [`dashboards`].

mod fleet;
mod gateway;
mod gpu;
mod model;
mod picker;
mod pod;

use crate::Dashboard;

/// All dashboards.
pub fn dashboards() -> Vec<Dashboard> {
    vec![
        fleet::dashboard(),
        model::dashboard(),
        pod::dashboard(),
        gpu::dashboard(),
        picker::dashboard(),
        gateway::dashboard(),
    ]
}
