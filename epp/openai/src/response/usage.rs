//! Reads a response while it passes, without delaying or changing it: token usage, events of a stream, and errors that
//! an engine reports inside a stream.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use http::HeaderMap;
use memchr::{memchr, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ResponseFormat;
use crate::nested::NestedValue;
use crate::string::{StringState, plain_string, skip_string};

/// Longest line of a stream that is parsed. A longer line still counts as an event.
const MAX_LINE_BYTES: usize = 64 << 10;
/// End of a JSON response that is kept. Engines write `usage` as one of the last members.
const TAIL_BYTES: usize = 4 << 10;

/// Token counts that an engine reports in `usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt. `prompt_tokens` in chat and completions, `input_tokens` in the Responses API.
    #[serde(alias = "input_tokens", default)]
    pub prompt_tokens: u64,
    /// Generated tokens. `completion_tokens` in chat and completions, `output_tokens` in the Responses API.
    #[serde(alias = "output_tokens", default)]
    pub completion_tokens: u64,
}

/// Something that [`ResponseScanner`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The first event with data.
    FirstEvent,
    /// A later event, with the time since the event before it.
    NextEvent(Duration),
    /// Token counts. With continuous usage each one is the sum so far.
    Usage(Usage),
    /// An event that reports an error. The status of the stream may still be 200.
    Error,
}

/// Scans the body of one response.
#[derive(Debug)]
pub enum ResponseScanner {
    /// The body is not read: it has another format, or it is encoded.
    Unreadable,
    /// A stream of server-sent events.
    Events(EventScanner),
    /// One JSON text. Only its end is kept.
    Json {
        /// The last bytes of the body, at most 4 KiB.
        tail: Vec<u8>,
    },
}

/// Splits an event stream into lines and reads their data.
#[derive(Debug, Default)]
pub struct EventScanner {
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
    is_too_long: bool,
    last: Option<Instant>,
}

#[derive(Deserialize)]
struct Event {
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
    /// Events of the Responses API have both members inside `response`.
    response: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

impl ResponseScanner {
    /// A scanner for a response with these headers.
    pub fn new(headers: &HeaderMap) -> Self {
        match ResponseFormat::of(headers) {
            Some(ResponseFormat::Events) => Self::Events(EventScanner::default()),
            Some(ResponseFormat::Json) => Self::Json { tail: Vec::new() },
            None => Self::Unreadable,
        }
    }

    /// Whether the response is a stream of events.
    pub fn is_event_stream(&self) -> bool {
        matches!(self, Self::Events(_))
    }

    /// Reads the next bytes of the body and reports what they contain.
    pub fn feed(&mut self, bytes: &[u8], report: impl FnMut(Finding)) {
        match self {
            Self::Unreadable => {}
            Self::Events(events) => events.feed(bytes, report),
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

    /// Reports what is only known at the end of the body: the usage of a JSON response.
    pub fn finish(&mut self, mut report: impl FnMut(Finding)) {
        if let Self::Json { tail } = self
            && let Some(usage) = usage_in(tail)
        {
            report(Finding::Usage(usage));
        }
    }
}

impl EventScanner {
    fn feed(&mut self, mut bytes: &[u8], mut report: impl FnMut(Finding)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.line.is_empty() && !self.is_too_long {
                self.line(line, &mut report);
            } else {
                self.keep(line);
                let complete = std::mem::take(&mut self.line);
                self.line(&complete, &mut report);
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

    fn line(&mut self, line: &[u8], report: &mut impl FnMut(Finding)) {
        let Some(data) = line.strip_prefix(DATA) else { return };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return;
        }
        // A quote inside generated text is escaped, so a match is a member.
        static USAGE: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"usage\":"));
        static ERROR: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"error\":"));
        let is_parsed = USAGE.find(data).is_some() || ERROR.find(data).is_some();
        let event = if is_parsed { serde_json::from_slice::<Event>(data).ok() } else { None };
        let inner = event.as_ref().and_then(|event| event.response.as_ref());
        let is_error = event.as_ref().is_some_and(|event| event.error.is_some())
            || inner.is_some_and(|inner| inner.error.is_some());
        if is_error {
            report(Finding::Error);
        } else {
            let now = Instant::now();
            match self.last.replace(now) {
                None => report(Finding::FirstEvent),
                Some(last) => report(Finding::NextEvent(now.duration_since(last))),
            }
        }
        let usage = event.as_ref().and_then(|event| event.usage).or(inner.and_then(|inner| inner.usage));
        if let Some(usage) = usage {
            report(Finding::Usage(usage));
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

/// Usage in the form that engines write. `None` for other forms, which may be valid; [`usage_in`] then asks `serde_json`.
fn plain_usage(json: &[u8]) -> Option<Usage> {
    let mut usage = Usage::default();
    let mut rest = json.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    loop {
        let after_quote = rest.strip_prefix(b"\"")?;
        let name = plain_string(after_quote)?;
        rest = after_quote[name.len() + 1..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
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
            None => skip_value(rest)?,
        }
        .trim_ascii_start();
        match rest.split_first()? {
            (b',', after) => rest = after.trim_ascii_start(),
            (b'}', _) => return Some(usage),
            _ => return None,
        }
    }
}

/// The bytes after the value that `json` starts with. `None` if the value does not end in `json`.
fn skip_value(json: &[u8]) -> Option<&[u8]> {
    let (first, rest) = json.split_first()?;
    match first {
        b'"' => match skip_string(rest, StringState::Inside) {
            (used, StringState::Ended) => Some(&rest[used..]),
            _ => None,
        },
        b'{' | b'[' => Some(&rest[NestedValue::opened().skip(rest).ok()??..]),
        _ => json.iter().position(|byte| matches!(byte, b',' | b'}')).map(|end| &json[end..]),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn scanner(content_type: &'static str) -> ResponseScanner {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        ResponseScanner::new(&headers)
    }

    /// What a scanner finds in `body`. Times are set to zero.
    fn findings(scanner: &mut ResponseScanner, body: &[u8], piece_bytes: usize) -> Vec<Finding> {
        let mut all = Vec::new();
        let mut report = |finding| match finding {
            Finding::NextEvent(_) => all.push(Finding::NextEvent(Duration::ZERO)),
            other => all.push(other),
        };
        for piece in body.chunks(piece_bytes) {
            scanner.feed(piece, &mut report);
        }
        scanner.finish(report);
        all
    }

    const NEXT: Finding = Finding::NextEvent(Duration::ZERO);

    fn usage(prompt_tokens: u64, completion_tokens: u64) -> Finding {
        Finding::Usage(Usage { prompt_tokens, completion_tokens })
    }

    #[test]
    fn reports_events_usage_and_errors_of_a_stream() {
        let stream = concat!(
            ": keep-alive\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\":{}, \\\"usage\\\":{}\"}}]}\r\n\r\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"total_tokens\":9,\"completion_tokens\":2}}\n\n",
            "data: {\"error\":{\"message\":\"engine died\",\"code\":500}}\n\n",
            "data: [DONE]\n\n",
        );
        for piece_bytes in [1, 2, 7, 10_000] {
            let all =
                findings(&mut scanner("text/event-stream; charset=utf-8"), stream.as_bytes(), piece_bytes);
            assert_eq!(all, [Finding::FirstEvent, NEXT, NEXT, usage(7, 2), Finding::Error], "{piece_bytes}");
        }
        let responses = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"error\":null,\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}\n\n";
        let all = findings(&mut scanner("text/event-stream"), responses.as_bytes(), 10);
        assert_eq!(all, [Finding::FirstEvent, usage(3, 4)]);
    }

    #[test]
    fn reads_usage_in_every_valid_form() {
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
            let parsed = serde_json::from_str::<Usage>(json).ok();
            assert!(plain_usage(json.as_bytes()).is_none_or(|usage| Some(usage) == parsed), "{json}");
        }
    }

    #[test]
    fn bounds_memory_for_a_line_without_end() {
        let mut scanner = scanner("text/event-stream");
        let long = vec![b'x'; 1 << 20];
        let all = findings(&mut scanner, &[b"data: ", &long[..], b"\n\ndata: {}\n\n"].concat(), 4096);
        assert_eq!(all, [Finding::FirstEvent, NEXT]);
        let ResponseScanner::Events(events) = scanner else { panic!("not a stream") };
        assert!(events.line.capacity() <= 2 * MAX_LINE_BYTES, "{}", events.line.capacity());
    }

    #[test]
    fn reads_usage_at_the_end_of_a_json_response() {
        let body = format!(
            r#"{{"choices":[{{"text":"{}"}}],"usage":{{"prompt_tokens":5,"completion_tokens":6}},"x":1}}"#,
            "\\\"usage\\\":{} ".repeat(10_000)
        );
        for piece_bytes in [1, 4095, 4096, 5000, 1_000_000] {
            let all = findings(&mut scanner("application/json"), body.as_bytes(), piece_bytes);
            assert_eq!(all, [usage(5, 6)], "{piece_bytes}");
        }
        assert_eq!(findings(&mut scanner("application/json"), b"{\"usage\":", 3), []);
        assert_eq!(findings(&mut scanner("text/plain"), b"{\"usage\":{\"prompt_tokens\":1}}", 3), []);
    }
}
