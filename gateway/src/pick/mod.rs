//! Chooses endpoints of a pool: asks the pool's endpoint picker over ext_proc, or schedules in this process for pools
//! without one.

mod channel;
mod content;
mod error;
mod exchange;
mod half_closed;
mod in_process;
mod in_process_pickers;
mod message;
mod peers;
mod picker;
mod prompt;
mod question;
mod relay;
mod replica_health;
mod replies;
mod reply;
mod session;
mod transport;
mod wanted;

#[cfg(test)]
pub(crate) use error::Rejection;
pub(crate) use error::{Error, Evicted};
pub(crate) use half_closed::HalfClosedStreams;
pub(crate) use in_process::read_prompt;
pub(crate) use in_process_pickers::InProcessPickers;
pub use picker::ResponseBodies;
pub(crate) use picker::{ChosenBy, Decision, Picker, PickerLimits};
pub(crate) use relay::RelayError;
pub(crate) use session::Session;
pub(crate) use transport::Transport;
pub use transport::{PickerTls, PickerTlsError, PickerTlsFlags};
pub(crate) use wanted::{Joined, SubsetHint, Wanted};
