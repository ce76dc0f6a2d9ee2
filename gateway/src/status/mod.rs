//! Writes to the cluster: statuses of the objects that are served, and a Service per Gateway. Only the replica that holds
//! the Lease writes.

mod api;
mod applied;
mod events;
mod lease;
mod owner;
mod rules;
mod services;
mod statuses;
mod writer;

pub(crate) use applied::Applied;
pub use rules::{STATUS_RULES, WRITE_RULES};
pub(crate) use services::{PortRange, open_ports};
pub(crate) use writer::{Writer, WriterOptions};

/// Field manager of server-side apply.
const FIELD_MANAGER: &str = "forebay-gateway";
