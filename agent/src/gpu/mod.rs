//! Measures the node's GPUs through NVML.

mod health;
mod library;
mod monitor;
mod owners;
mod recovery;
mod sample;

pub use library::{GpuOff, default_paths};
pub use monitor::{GpuMonitor, GpuReport, MonitorOptions};
pub use owners::pod_of_process;
pub use sample::{GpuMeasurement, Processes};
