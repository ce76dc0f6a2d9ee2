//! Restores the model name that the client sent, in the response of a model that served the request instead.

mod event_stream;
mod model_finder;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};

use self::event_stream::EventStream;
use self::model_finder::ModelFinder;
use super::ResponseFormat;
use crate::ModelName;
use crate::scanner::Region;
use crate::splice::json_string;

/// Replaces the `model` members of a response while its bytes pass.
///
/// Nothing is held back. The name is written at the first byte of a value; the rest of the value is dropped.
#[derive(Debug)]
pub struct Restore {
    finder: Finder,
    /// The name as a JSON string, with quotes.
    name: Bytes,
    is_in_value: bool,
}

#[derive(Debug)]
enum Finder {
    /// One JSON text.
    Json(ModelFinder),
    /// An event stream with a JSON text in each event.
    Events(EventStream),
}

impl Restore {
    /// Writes `name` into the response with these `headers`. `None` if the response cannot be read (see
    /// [`ResponseFormat::of`]). Removes `Content-Length`, because the length changes.
    pub fn new(headers: &mut HeaderMap, name: &ModelName) -> Option<Self> {
        let finder = match ResponseFormat::of(headers)? {
            ResponseFormat::Events => Finder::Events(EventStream::default()),
            ResponseFormat::Json => Finder::Json(ModelFinder::in_body()),
        };
        headers.remove(header::CONTENT_LENGTH);
        Some(Self { finder, name: json_string(name.as_str()), is_in_value: false })
    }

    /// The bytes to send instead of `bytes`. They may be empty.
    pub fn feed(&mut self, bytes: Bytes) -> Bytes {
        let mut changed: Option<BytesMut> = None;
        let (mut at, mut taken) = (0, 0);
        while at < bytes.len() {
            let (used, region) = self.finder.next_region(&bytes[at..]);
            if region == Region::Model {
                let out =
                    changed.get_or_insert_with(|| BytesMut::with_capacity(bytes.len() + self.name.len()));
                out.extend_from_slice(&bytes[taken..at]);
                if !self.is_in_value {
                    out.extend_from_slice(&self.name);
                }
                taken = at + used;
            }
            self.is_in_value = region == Region::Model;
            at += used;
        }
        match changed {
            None => bytes,
            Some(mut out) => {
                out.extend_from_slice(&bytes[taken..]);
                out.freeze()
            }
        }
    }
}

impl Finder {
    /// The length (at least one byte) and the kind of the next run of bytes of one kind.
    fn next_region(&mut self, bytes: &[u8]) -> (usize, Region) {
        match self {
            Self::Json(finder) => finder.next_region(bytes),
            Self::Events(events) => events.next_region(bytes),
        }
    }
}
