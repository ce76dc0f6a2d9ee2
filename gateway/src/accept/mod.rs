//! Listeners and client connections.

mod activity;
mod client_stream;
mod connection;
mod deadlines;
mod drain;
mod listeners;
mod options;
mod places;
mod plain_stream;
mod response_body;
mod unsent;

pub(crate) use connection::{Handler, Via};
pub(crate) use listeners::{ClientLimits, Listeners};
pub(crate) use options::ConnectionOptions;
pub(crate) use places::MAX_CONNECTIONS;
pub(crate) use response_body::ClientResponse;
