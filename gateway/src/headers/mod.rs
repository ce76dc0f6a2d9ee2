//! Rules for headers that pass through the gateway.

mod forwarded;
mod hop_by_hop;
mod internal;
mod prefer;
mod sanitise;

pub(crate) use forwarded::set_forwarded;
pub(crate) use hop_by_hop::{is_hop_by_hop, remove_hop_by_hop};
pub(crate) use internal::remove_internal;
pub(crate) use prefer::take_reservation;
pub(crate) use sanitise::{Error, sanitise};
