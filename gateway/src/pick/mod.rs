//! Which pod: the pool's endpoint picker is asked over the Endpoint Picker Protocol; for a pool without
//! one, the same choice is made in this process.

mod channel;
mod closing;
mod detour;
mod exchange;
mod in_process;
mod message;
mod peers;
mod picker;
mod replies;
mod reply;
mod session;
mod transport;

pub(crate) use closing::Closing;
pub(crate) use detour::DetourError;
pub(crate) use in_process::InProcessPickers;
pub use picker::ResponseBodies;
pub(crate) use picker::{ChosenBy, Decision, Picker, PickerLimits, SubsetHint};
pub(crate) use replies::Evicted;
pub(crate) use session::Session;
pub(crate) use transport::Transport;
pub use transport::{PickerTls, PickerTlsError, PickerTlsFlags};
