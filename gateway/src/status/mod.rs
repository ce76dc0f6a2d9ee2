//! What the gateway writes into the cluster: the statuses of the objects that it serves, and the Services
//! that bring clients to it. One replica at a time does, the one that holds the Lease.

mod api;
mod conditions;
mod gateways;
mod lease;
mod owner;
mod parents;
mod rewrites;
mod rules;
mod services;
mod statuses;
mod writer;

pub use rules::{STATUS_RULES, WRITE_RULES};
pub(crate) use services::{PortRange, open_ports};
pub(crate) use writer::{Applied, Writer, WriterOptions};

/// `spec.controllerName` of our GatewayClass, and the name that stands at every entry of ours in others' statuses.
pub(crate) const CONTROLLER_NAME: &str = "forebay.dev/gateway";
/// Who the API server thinks owns the fields that are written.
const FIELD_MANAGER: &str = "forebay-gateway";
