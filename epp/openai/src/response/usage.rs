//! Reads a response while it passes, without delaying or changing it: token usage, events of a stream, and errors that
//! an engine reports inside a stream.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use http::HeaderMap;
use memchr::{memchr, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ResponseFormat;
use super::tokens::Usage;
use super::usage_finder::UsageFinder;

/// Longest line of a stream that is parsed. A longer line still counts as an event.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Something that [`ResponseScanner`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The first event with data.
    FirstEvent,
    /// A later event, with the time since the event before it.
    NextEvent(Duration),
    /// All token counts so far. With continuous usage, there is one with each event.
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
    /// One JSON text.
    Json(JsonScanner),
}

/// Reads the usage of one JSON text.
#[derive(Debug, Default)]
pub struct JsonScanner(UsageFinder);

/// Splits an event stream into lines and reads their data.
#[derive(Debug, Default)]
pub struct EventScanner {
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
    /// Reads a line that is too long to be kept: the last event of the Responses API has the whole response.
    long_line: Option<UsageFinder>,
    last: Option<Instant>,
    usage: Usage,
}

#[derive(Deserialize)]
struct Event {
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
    /// Events of the Responses API have both members inside `response`, the first one of the Messages API inside `message`.
    response: Option<Envelope>,
    message: Option<Envelope>,
}

/// `message` may also be the text of an error.
#[derive(Deserialize)]
#[serde(untagged)]
enum Envelope {
    Inner(Inner),
    Other(IgnoredAny),
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
            Some(ResponseFormat::Json) => Self::Json(JsonScanner::default()),
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
            Self::Json(JsonScanner(finder)) => finder.feed(bytes),
        }
    }

    /// Reports what is only known at the end of the body: the usage of a JSON response.
    pub fn finish(&mut self, mut report: impl FnMut(Finding)) {
        if let Self::Json(JsonScanner(finder)) = self
            && finder.usage().is_known()
        {
            report(Finding::Usage(finder.usage()));
        }
    }
}

impl EventScanner {
    fn feed(&mut self, mut bytes: &[u8], mut report: impl FnMut(Finding)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if let Some(mut finder) = self.long_line.take() {
                finder.feed(line);
                self.event(false, finder.usage(), &mut report);
            } else if self.line.is_empty() {
                self.line(line, &mut report);
            } else {
                self.line.extend_from_slice(line);
                let complete = std::mem::take(&mut self.line);
                self.line(&complete, &mut report);
            }
        }
        self.keep(bytes);
    }

    /// Keeps the start of a line.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some(finder) = &mut self.long_line {
            return finder.feed(bytes);
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > MAX_LINE_BYTES && self.line.starts_with(DATA) {
            let mut finder = UsageFinder::default();
            finder.feed(&self.line);
            self.long_line = Some(finder);
            self.line = Vec::new();
        } else if self.line.len() > MAX_LINE_BYTES {
            // A comment or another field: its end is not needed.
            self.line.truncate(DATA.len());
        }
    }

    fn line(&mut self, line: &[u8], report: &mut impl FnMut(Finding)) {
        let Some(data) = line.strip_prefix(DATA) else { return };
        if line.len() > MAX_LINE_BYTES {
            let mut finder = UsageFinder::default();
            finder.feed(line);
            return self.event(false, finder.usage(), report);
        }
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return;
        }
        // A quote inside generated text is escaped, so a match is a member.
        static USAGE: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"usage\":"));
        static ERROR: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"error\":"));
        let is_parsed = USAGE.find(data).is_some() || ERROR.find(data).is_some();
        let event = if is_parsed { serde_json::from_slice::<Event>(data).ok() } else { None };
        let inner = event.as_ref().and_then(|event| {
            [&event.response, &event.message].into_iter().find_map(|envelope| match envelope {
                Some(Envelope::Inner(inner)) => Some(inner),
                _ => None,
            })
        });
        let is_error = event.as_ref().is_some_and(|event| event.error.is_some())
            || inner.is_some_and(|inner| inner.error.is_some());
        let usage = event.as_ref().and_then(|event| event.usage).or(inner.and_then(|inner| inner.usage));
        self.event(is_error, usage.unwrap_or_default(), report);
    }

    fn event(&mut self, is_error: bool, usage: Usage, report: &mut impl FnMut(Finding)) {
        if is_error {
            report(Finding::Error);
        } else {
            let now = Instant::now();
            match self.last.replace(now) {
                None => report(Finding::FirstEvent),
                Some(last) => report(Finding::NextEvent(now.duration_since(last))),
            }
        }
        if usage.is_known() {
            self.usage.update(usage);
            report(Finding::Usage(self.usage));
        }
    }
}

const DATA: &[u8] = b"data:";

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
        Finding::Usage(Usage {
            prompt_tokens: Some(prompt_tokens),
            completion_tokens: Some(completion_tokens),
            ..Usage::default()
        })
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
    fn merges_the_usage_of_the_messages_api() {
        let stream = concat!(
            "event: message_start\n",
            "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":12,\"output_tokens\":0}}}\n\n",
            "event: content_block_delta\n",
            "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n",
            "event: message_delta\n",
            "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\n",
            "event: error\n",
            "data: {\"type\":\"error\",\"error\":{\"type\":\"x\"},\"message\":\"engine died\"}\n\n",
        );
        for piece_bytes in [1, 7, 10_000] {
            let all = findings(&mut scanner("text/event-stream"), stream.as_bytes(), piece_bytes);
            assert_eq!(
                all,
                [Finding::FirstEvent, usage(12, 0), NEXT, NEXT, usage(12, 5), Finding::Error],
                "{piece_bytes}"
            );
        }
    }

    #[test]
    fn reads_usage_of_an_event_that_is_too_long_to_be_kept() {
        let text = "x".repeat(MAX_LINE_BYTES);
        let usage_json = r#""usage":{"input_tokens":3,"output_tokens":4}"#;
        for event in [
            format!(r#"{{"response":{{"output":"{text}",{usage_json}}}}}"#),
            format!(r#"{{"response":{{{usage_json},"output":"{text}"}}}}"#),
        ] {
            let error = format!(r#"{{"error":"{text}"}}"#);
            let stream =
                format!("data: {event}\n\ndata: {{}}\n\n: {text}{text}\n\ndata: {{}}\n\ndata: {error}\n\n");
            for piece_bytes in [999, 5000, 1_000_000] {
                let all = findings(&mut scanner("text/event-stream"), stream.as_bytes(), piece_bytes);
                assert_eq!(all, [Finding::FirstEvent, usage(3, 4), NEXT, NEXT, NEXT], "{piece_bytes}");
            }
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
        assert_eq!(findings(&mut scanner("application/json"), b"{\"usage\":null}", 3), []);
        assert_eq!(findings(&mut scanner("text/plain"), b"{\"usage\":{\"prompt_tokens\":1}}", 3), []);
    }
}
