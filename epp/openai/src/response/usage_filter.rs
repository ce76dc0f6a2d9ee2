//! Removes chunks that the client did not ask for.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::tokens::Usage;

/// Longest event that is held back or removed. Engines write about 300 bytes.
const MAX_EVENT_BYTES: usize = 4 << 10;
const DATA: &[u8] = b"data:";

/// Removes the chunk that ends a stream if usage was asked for: it has no choices, only `usage`. For streams whose usage the
/// gateway asked for.
///
/// An event that may be such a chunk is held back until it is complete. All others pass at once.
#[derive(Debug, Default)]
pub struct UsageFilter {
    /// The start of an event.
    held: BytesMut,
    /// Set in an event that passes.
    passing: Option<Line>,
}

/// What has arrived of the current line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Empty,
    Return,
    Text,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<IgnoredAny>,
    #[serde(rename = "usage")]
    _usage: Usage,
}

impl UsageFilter {
    /// The bytes to send instead of `bytes`. They may be empty.
    pub fn feed(&mut self, bytes: Bytes) -> Bytes {
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            self.held.extend_from_slice(&bytes);
            self.held.split().freeze()
        };
        let mut kept: Option<BytesMut> = None;
        // From `taken` to `at`: to be sent.
        let (mut at, mut taken) = (0, 0);
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.next(rest) {
                Next::Pass(length) => at += length,
                Next::Remove(length) => {
                    kept.get_or_insert_default().extend_from_slice(&bytes[taken..at]);
                    at += length;
                    taken = at;
                }
                Next::Hold => {
                    self.held.extend_from_slice(rest);
                    break;
                }
            }
        }
        match kept {
            None => bytes.slice(..at),
            Some(mut kept) => {
                kept.extend_from_slice(&bytes[taken..at]);
                kept.freeze()
            }
        }
    }

    /// What is held back at the end of the body: an event that is not complete.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.held.is_empty()).then(|| self.held.split().freeze())
    }

    /// Whether [`UsageFilter::finish`] has something.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// `rest` is not empty.
    fn next(&mut self, rest: &[u8]) -> Next {
        if let Some(line) = &mut self.passing {
            let end = event_end(line, rest);
            if end.is_some() {
                self.passing = None;
            }
            return Next::Pass(end.unwrap_or(rest.len()));
        }
        let mut line = Line::Empty;
        let start = rest.len().min(DATA.len());
        if rest[..start] != DATA[..start] {
            self.passing = Some(line);
            return self.next(rest);
        }
        match event_end(&mut line, rest) {
            Some(end) if end <= MAX_EVENT_BYTES && is_usage_chunk(&rest[..end]) => Next::Remove(end),
            Some(end) => Next::Pass(end),
            None if rest.len() < MAX_EVENT_BYTES => Next::Hold,
            None => {
                self.passing = Some(line);
                Next::Pass(rest.len())
            }
        }
    }
}

enum Next {
    Pass(usize),
    Remove(usize),
    Hold,
}

/// The number of bytes up to the empty line that ends the event. `None` if it does not end in `bytes`.
fn event_end(line: &mut Line, bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (*line, byte) {
            (Line::Empty | Line::Return, b'\n') => return Some(at + 1),
            (Line::Empty, b'\r') => {
                *line = Line::Return;
                at += 1;
            }
            _ => {
                *line = Line::Text;
                at += memchr(b'\n', &bytes[at..])? + 1;
                *line = Line::Empty;
            }
        }
    }
    None
}

fn is_usage_chunk(event: &[u8]) -> bool {
    static USAGE: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"usage\""));
    if USAGE.find(event).is_none() {
        return false;
    }
    let data = event[DATA.len()..].trim_ascii_end();
    memchr2(b'\r', b'\n', data).is_none()
        && serde_json::from_slice(data).is_ok_and(|Chunk { choices, .. }| choices.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    const USAGE: &str = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn filtered(stream: &str, piece_bytes: usize) -> String {
        let mut filter = UsageFilter::default();
        let pieces = stream.as_bytes().chunks(piece_bytes);
        let mut out: Vec<u8> = pieces.flat_map(|piece| filter.feed(Bytes::copy_from_slice(piece))).collect();
        assert!(filter.held.len() < MAX_EVENT_BYTES);
        out.extend(filter.finish().unwrap_or_default());
        assert!(!filter.is_holding());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_usage_chunk_is_removed() {
        let with_crlf = |event: &str| event.replace('\n', "\r\n");
        let long =
            format!("data: {{\"choices\":[],\"x\":\"{}\",\"usage\":{{}}}}\n\n", "x".repeat(MAX_EVENT_BYTES));
        let last = "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1}}\n\n";
        for (stream, expected) in [
            (format!("{TEXT}{USAGE}{DONE}"), format!("{TEXT}{DONE}")),
            (with_crlf(&format!("{TEXT}{USAGE}{DONE}")), with_crlf(&format!("{TEXT}{DONE}"))),
            (format!(": ping\n\n{USAGE}\n\nevent: x\n{USAGE}"), format!(": ping\n\n\n\nevent: x\n{USAGE}")),
            (format!("{long}{last}{DONE}"), format!("{long}{last}{DONE}")),
            (USAGE.replace(",", ",\n"), USAGE.replace(",", ",\n")),
            (USAGE[..50].to_owned(), USAGE[..50].to_owned()),
            ("data: {\"choices\":[],\n\n".to_owned(), "data: {\"choices\":[],\n\n".to_owned()),
        ] {
            for piece_bytes in [1, 2, 3, 7, 100, 100_000] {
                assert_eq!(filtered(&stream, piece_bytes), expected, "in pieces of {piece_bytes}");
            }
        }
    }

    #[test]
    fn complete_events_pass_at_once_and_are_not_copied() {
        let mut filter = UsageFilter::default();
        let bytes = Bytes::from(format!("{TEXT}: ping\n\n{DONE}"));
        assert_eq!(filter.feed(bytes.clone()).as_ptr(), bytes.as_ptr());
        assert_eq!(filter.feed(Bytes::from_static(b"event: x\nda")), "event: x\nda");
        assert_eq!(filter.feed(Bytes::from_static(b"ta: 1\n\ndata")), "ta: 1\n\n");
        assert!(filter.is_holding());
    }

    proptest! {
        #[test]
        fn splits_change_nothing(
            parts in prop::collection::vec(prop::sample::select(vec![
                TEXT, USAGE, DONE, "data:", "\n", "\r\n", "\r", "x", ": ping\n", "data: LONG",
            ]), 0..12),
            piece_bytes in 1_usize..60,
        ) {
            let stream = parts.concat().replace("LONG", &"x".repeat(MAX_EVENT_BYTES - 10));
            prop_assert_eq!(filtered(&stream, piece_bytes), filtered(&stream, usize::MAX));
        }
    }
}
