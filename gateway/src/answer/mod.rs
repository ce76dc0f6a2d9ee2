//! What goes back to the client.

mod body;
pub mod error;
mod models;
mod watch;

pub(crate) use body::AnswerBody;
pub(crate) use models::{ModelLists, find_model, list_models};
pub(crate) use watch::{Seen, Usage, Watch};
