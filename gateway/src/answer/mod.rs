//! What goes back to the client.

mod body;
pub mod error;
mod models;
mod restore;
mod watch;

use http::{HeaderMap, header};

pub(crate) use body::{AnswerBody, Pod};
pub(crate) use models::{ModelLists, find_model, list_models};
pub(crate) use restore::Restore;
pub(crate) use watch::{Seen, Usage, Watch};

/// What can be read in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readable {
    /// A stream of events.
    Events,
    Json,
}

impl Readable {
    /// Nothing for a response that is compressed, or of another kind.
    fn of(headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        let media_type = headers.get(header::CONTENT_TYPE)?.as_bytes();
        let is = |wanted: &[u8]| {
            media_type.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted))
        };
        if is(b"text/event-stream") {
            Some(Self::Events)
        } else if is(b"application/json") {
            Some(Self::Json)
        } else {
            None
        }
    }
}
