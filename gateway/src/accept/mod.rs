//! Listeners, connections, and what no client may send.

mod connection;
mod listeners;
mod sanitise;

pub(crate) use connection::{Handler, StreamTasks, Via};
pub(crate) use listeners::Listeners;
pub(crate) use sanitise::{is_hop_by_hop, remove_hop_by_hop, remove_internal, sanitise};
