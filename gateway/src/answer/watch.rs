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
    static FINDER: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new(KEY));
    let at = FINDER.find_iter(tail).last()?;
    let object = &tail[at + KEY.len()..];
    if let Some(usage) = plain_usage(object) {
        return Some(usage);
    }
    let mut objects = serde_json::Deserializer::from_slice(object).into_iter::<Usage>();
    objects.next()?.ok()
}

/// As the engines write it. Nothing for what is written in another way, which may be right all the same.
fn plain_usage(json: &[u8]) -> Option<Usage> {
    let mut usage = Usage::default();
    let mut rest = json.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    loop {
        let (name, after) = plain_string(rest)?;
        rest = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let tokens = match name {
            b"prompt_tokens" | b"input_tokens" => Some(&mut usage.prompt_tokens),
            b"completion_tokens" | b"output_tokens" => Some(&mut usage.completion_tokens),
            _ => None,
        };
        rest = match tokens {
            Some(tokens) => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                *tokens = str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
                &rest[digits..]
            }
            None => skip_plain(rest)?,
        }
        .trim_ascii_start();
        match rest.split_first()? {
            (b',', after) => rest = after.trim_ascii_start(),
            (b'}', _) => return Some(usage),
            _ => return None,
        }
    }
}

/// A string without escapes, and what follows.
fn plain_string(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = json.strip_prefix(b"\"")?;
    let end = memchr(b'"', text)?;
    (!text[..end].contains(&b'\\')).then_some((&text[..end], &text[end + 1..]))
}

/// What follows a value.
fn skip_plain(json: &[u8]) -> Option<&[u8]> {
    let mut depth = 0_u32;
    let mut rest = json;
    loop {
        rest = match rest.first()? {
            b'"' => plain_string(rest)?.1,
            b'{' | b'[' => {
                depth += 1;
                &rest[1..]
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                &rest[1..]
            }
            b',' | b'}' if depth == 0 => return Some(rest),
            _ => &rest[1..],
        };
    }
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
    fn usage_is_read_in_whatever_way_it_is_written() {
        for (json, expected) in [
            (r#"{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}"#, Some((7, 2))),
            (
                r#"{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":[1,{"a":"}"}]},"completion_tokens":2}"#,
                Some((7, 2)),
            ),
            (r#"{"input_tokens" : 7 , "x" : null, "output_tokens": 2 , "y":-1.5e3}"#, Some((7, 2))),
            (r#"{"prompt_tokens":7,"a\"b":"\\","completion_tokens":2}"#, Some((7, 2))),
            (r#"{"prompt_tokens":7}"#, Some((7, 0))),
            (r"{}", Some((0, 0))),
            ("null", None),
            (r#"{"prompt_tokens":-7}"#, None),
            (r#"{"prompt_tokens":7,"#, None),
            (r#"{"prompt_tokens":99999999999999999999999}"#, None),
        ] {
            let found = usage_in(format!("{{\"usage\":{json}}}").as_bytes());
            let expected =
                expected.map(|(prompt_tokens, completion_tokens)| Usage { prompt_tokens, completion_tokens });
            assert_eq!(found, expected, "{json}");
            let slowly = serde_json::from_str::<Usage>(json).ok();
            assert!(plain_usage(json.as_bytes()).is_none_or(|usage| Some(usage) == slowly), "{json}");
        }
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
