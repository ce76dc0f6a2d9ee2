//! Which pod: the pool's endpoint picker is asked over the Endpoint Picker Protocol.

mod exchange;
mod message;
mod peers;
mod picker;
mod reply;
mod session;

pub(crate) use picker::{Decision, Picker};
pub(crate) use session::Session;
