//! The model that the client asked for, in the response of a model that stood in for it.

mod events;
mod members;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};

use self::events::Events;
use self::members::Members;
use super::Readable;
use forebay_openai::{ModelName, json_string};

/// Puts a name into the `model` members of a response as its bytes pass. Nothing is kept back: of a value only
/// its first byte decides, and the rest of it is left out.
#[derive(Debug)]
pub(crate) struct Restore {
    finder: Finder,
    /// As JSON spells it.
    name: Bytes,
    is_in_value: bool,
}

#[derive(Debug)]
enum Finder {
    /// A JSON text.
    Json(Members),
    /// An event stream with a JSON text in each event.
    Events(Events),
}

/// What some bytes of a response are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The value of a `model`.
    Model,
    Other,
}

impl Restore {
    /// Nothing for a response of which nothing can be read. The length that `headers` give is taken out of them,
    /// because it will be another one.
    pub(crate) fn new(headers: &mut HeaderMap, name: &ModelName) -> Option<Self> {
        let finder = match Readable::of(headers)? {
            Readable::Events => Finder::Events(Events::default()),
            Readable::Json => Finder::Json(Members::of_body()),
        };
        headers.remove(header::CONTENT_LENGTH);
        Some(Self { finder, name: json_string(name.as_str()), is_in_value: false })
    }

    /// What is to be sent in place of `bytes`; it may be nothing.
    pub(crate) fn feed(&mut self, bytes: Bytes) -> Bytes {
        let mut changed: Option<BytesMut> = None;
        let (mut at, mut taken) = (0, 0);
        while at < bytes.len() {
            let (used, part) = self.finder.part(&bytes[at..]);
            if part == Part::Model {
                let out =
                    changed.get_or_insert_with(|| BytesMut::with_capacity(bytes.len() + self.name.len()));
                out.extend_from_slice(&bytes[taken..at]);
                if !self.is_in_value {
                    out.extend_from_slice(&self.name);
                }
                taken = at + used;
            }
            self.is_in_value = part == Part::Model;
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
    /// The next bytes that are all of one kind: how many, at least one, and which.
    fn part(&mut self, bytes: &[u8]) -> (usize, Part) {
        match self {
            Self::Json(members) => members.part(bytes),
            Self::Events(events) => events.part(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
