//! The node agent as a library, so that tests can start its parts.
//!
//! - [`discover`] finds the pods to watch and their cgroups.
//! - [`kernel`] loads the kernel programs and reads what they count.
//! - [`gpu`] samples GPUs, [`engine`] scrapes engines.
//! - [`liveness`] tells whether an engine works.
//! - [`publish`] holds the current state and serves it.
//! - [`node`] starts all of it.
#![warn(missing_docs)]

pub mod discover;
pub mod engine;
pub mod gpu;
pub mod kernel;
pub mod liveness;
pub mod node;
pub mod publish;
