//! What the load programs share: their report, and the CPU time and memory of processes.

pub mod report;
pub mod usage;
