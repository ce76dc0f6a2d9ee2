//! Reads along in a response: tokens from its usage, events of a stream, errors that a model server reports inside
//! one. Nothing is held up or changed.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use http::HeaderMap;
use memchr::{memchr, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Readable;

/// Longest line of a stream that is looked at; of a longer one, only that it is there.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Of a response in one piece, usage stands near its end.
const TAIL_BYTES: usize = 4 << 10;

/// What the engine says it used, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    /// Chat and completions; the Responses API says `input_tokens`.
    #[serde(alias = "input_tokens", default)]
    pub(crate) prompt_tokens: u64,
    #[serde(alias = "output_tokens", default)]
    pub(crate) completion_tokens: u64,
}

/// Something that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The first event with data.
    FirstEvent,
    /// A further event, so long after the one before.
    NextEvent(Duration),
    Usage(Usage),
    /// An event that reports an error, in a stream whose status said that all is well.
    Error,
}

/// What is read along.
#[derive(Debug)]
pub(crate) enum Watch {
    Nothing,
    Events(Events),
    Json { tail: Vec<u8> },
}

/// Lines of an event stream.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    is_too_long: bool,
    last: Option<Instant>,
}

#[derive(Deserialize)]
struct Event {
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
    /// The Responses API has both inside.
    response: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

impl Watch {
    pub(crate) fn new(headers: &HeaderMap) -> Self {
        match Readable::of(headers) {
            Some(Readable::Events) => Self::Events(Events::default()),
            Some(Readable::Json) => Self::Json { tail: Vec::new() },
            None => Self::Nothing,
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8], seen: impl FnMut(Seen)) {
        match self {
            Self::Nothing => {}
            Self::Events(events) => events.feed(bytes, seen),
            Self::Json { tail } => {
                if bytes.len() >= TAIL_BYTES {
                    tail.clear();
                } else if tail.len() + bytes.len() > TAIL_BYTES {
                    tail.drain(..tail.len() + bytes.len() - TAIL_BYTES);
                }
                tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
            }
        }
    }

    /// The body has ended.
    pub(crate) fn finish(&mut self, mut seen: impl FnMut(Seen)) {
        if let Self::Json { tail } = self
            && let Some(usage) = usage_in(tail)
        {
            seen(Seen::Usage(usage));
        }
    }
}

impl Events {
    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.line.is_empty() && !self.is_too_long {
                self.line(line, &mut seen);
            } else {
                self.keep(line);
                let whole = std::mem::take(&mut self.line);
                self.line(&whole, &mut seen);
                self.is_too_long = false;
            }
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_too_long || self.line.len() + bytes.len() > MAX_LINE_BYTES {
            self.is_too_long = true;
            self.line.truncate(MAX_LINE_BYTES.min(DATA.len()));
            return;
        }
        self.line.extend_from_slice(bytes);
    }

    fn line(&mut self, line: &[u8], seen: &mut impl FnMut(Seen)) {
        let Some(data) = line.strip_prefix(DATA) else { return };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return;
        }
        // A quote inside generated text has a backslash before it, so these are members.
        static USAGE: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"usage\":"));
        static ERROR: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"error\":"));
        let may_say_something = USAGE.find(data).is_some() || ERROR.find(data).is_some();
        let event = if may_say_something { serde_json::from_slice::<Event>(data).ok() } else { None };
        let inner = event.as_ref().and_then(|event| event.response.as_ref());
        let is_error = event.as_ref().is_some_and(|event| event.error.is_some())
            || inner.is_some_and(|inner| inner.error.is_some());
        if is_error {
            seen(Seen::Error);
        } else {
            let now = Instant::now();
            match self.last.replace(now) {
                None => seen(Seen::FirstEvent),
                Some(last) => seen(Seen::NextEvent(now.duration_since(last))),
            }
        }
        let usage = event.as_ref().and_then(|event| event.usage).or(inner.and_then(|inner| inner.usage));
        if let Some(usage) = usage {
            seen(Seen::Usage(usage));
        }
    }
}

const DATA: &[u8] = b"data:";

/// The last `usage` object in the end of a JSON text.
fn usage_in(tail: &[u8]) -> Option<Usage> {
    const KEY: &[u8] = b"\"usage\":";
    static FINDER: LazyLock<memmem::FinderRev<'_>> = LazyLock::new(|| memmem::FinderRev::new(KEY));
    let at = FINDER.rfind(tail)?;
    let mut objects = serde_json::Deserializer::from_slice(&tail[at + KEY.len()..]).into_iter::<Usage>();
    objects.next()?.ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn watch(content_type: &'static str) -> Watch {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Watch::new(&headers)
    }

    /// Times become zero.
    fn seen(watch: &mut Watch, body: &[u8], piece_bytes: usize) -> Vec<Seen> {
        let mut all = Vec::new();
        let mut note = |seen| match seen {
            Seen::NextEvent(_) => all.push(Seen::NextEvent(Duration::ZERO)),
            other => all.push(other),
        };
        for piece in body.chunks(piece_bytes) {
            watch.feed(piece, &mut note);
        }
        watch.finish(note);
        all
    }

    const NEXT: Seen = Seen::NextEvent(Duration::ZERO);

    fn usage(prompt_tokens: u64, completion_tokens: u64) -> Seen {
        Seen::Usage(Usage { prompt_tokens, completion_tokens })
    }

    #[test]
    fn a_stream_tells_its_events_its_usage_and_its_errors() {
        let stream = concat!(
            ": keep-alive\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\":{}, \\\"usage\\\":{}\"}}]}\r\n\r\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"total_tokens\":9,\"completion_tokens\":2}}\n\n",
            "data: {\"error\":{\"message\":\"engine died\",\"code\":500}}\n\n",
            "data: [DONE]\n\n",
        );
        for piece_bytes in [1, 2, 7, 10_000] {
            let all = seen(&mut watch("text/event-stream; charset=utf-8"), stream.as_bytes(), piece_bytes);
            assert_eq!(all, [Seen::FirstEvent, NEXT, NEXT, usage(7, 2), Seen::Error], "{piece_bytes}");
        }
        let responses = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"error\":null,\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n";
        let all = seen(&mut watch("text/event-stream"), responses.as_bytes(), 10);
        assert_eq!(all, [Seen::FirstEvent, usage(3, 4)]);
    }

    #[test]
    fn a_line_that_never_ends_takes_no_room() {
        let mut watch = watch("text/event-stream");
        let long = vec![b'x'; 1 << 20];
        let all = seen(&mut watch, &[b"data: ", &long[..], b"\n\ndata: {}\n\n"].concat(), 4096);
        assert_eq!(all, [Seen::FirstEvent, NEXT]);
        let Watch::Events(events) = watch else { panic!("not a stream") };
        assert!(events.line.capacity() <= 2 * MAX_LINE_BYTES, "{}", events.line.capacity());
    }

    #[test]
    fn an_answer_in_one_piece_has_its_usage_near_its_end() {
        let body = format!(
            r#"{{"choices":[{{"text":"{}"}}],"usage":{{"prompt_tokens":5,"completion_tokens":6}},"x":1}}"#,
            "\\\"usage\\\":{} ".repeat(10_000)
        );
        for piece_bytes in [1, 4095, 4096, 5000, 1_000_000] {
            let all = seen(&mut watch("application/json"), body.as_bytes(), piece_bytes);
            assert_eq!(all, [usage(5, 6)], "{piece_bytes}");
        }
        assert_eq!(seen(&mut watch("application/json"), b"{\"usage\":", 3), []);
        assert_eq!(seen(&mut watch("text/plain"), b"{\"usage\":{\"prompt_tokens\":1}}", 3), []);
    }
}
