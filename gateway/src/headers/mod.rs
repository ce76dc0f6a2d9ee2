//! Rules for headers that pass through the gateway.

mod forwarded;
mod hop_by_hop;
mod internal;
mod sanitise;

pub(crate) use forwarded::{remove_trace_context, set_forwarded};
pub(crate) use hop_by_hop::{is_hop_by_hop, remove_hop_by_hop};
pub(crate) use internal::remove_internal;
pub(crate) use sanitise::{Error, sanitise};
