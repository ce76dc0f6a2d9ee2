//! Listeners, connections, and what no client may send.

mod beat;
mod connection;
mod drain;
mod listeners;
mod sanitise;
mod wakes;

pub(crate) use beat::Beat;
pub(crate) use connection::{Handler, StreamTasks, Via};
pub(crate) use listeners::Listeners;
pub(crate) use sanitise::{is_hop_by_hop, remove_hop_by_hop, remove_internal, sanitise};
pub(crate) use wakes::poll_piece;
