//! Listeners and client connections.

mod connection;
mod drain;
mod listeners;

pub(crate) use connection::{ConnectionOptions, Handler, Via};
pub(crate) use listeners::Listeners;
