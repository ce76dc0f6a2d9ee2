//! What a request says of its output: whether it is streamed, whether usage is reported, and how long it may get.

use std::ops::Range;
use std::sync::LazyLock;

use http::HeaderMap;
use memchr::memmem;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{BodyScanner, PlainScanner};

const STREAM_OPTIONS: &str = "stream_options";
const INCLUDE_USAGE: &str = "include_usage";
/// An option that has an effect only together with [`INCLUDE_USAGE`].
const CONTINUOUS_USAGE: &str = "continuous_usage_stats";

/// Members of a request body that concern the output (OpenAI's chat completions, completions and responses; Anthropic's
/// messages).
///
/// # Examples
///
/// ```
/// use forebay_openai::GenerationOptions;
///
/// let body = br#"{"model":"m","stream":true,"max_tokens":100}"#;
/// let options = GenerationOptions::read(body).unwrap();
/// assert_eq!(options.max_output_tokens(), Some(100));
/// let (at, text) = options.with_usage(body).unwrap();
/// let changed = [&body[..at.start], text.as_bytes(), &body[at.end..]].concat();
/// assert_eq!(
///     changed,
///     br#"{"model":"m","stream":true,"max_tokens":100,"stream_options":{"include_usage":true}}"#
/// );
/// ```
#[derive(Debug, Deserialize)]
pub struct GenerationOptions<'b> {
    #[serde(default)]
    stream: Value,
    /// `null` is `Some`, too.
    #[serde(borrow, default, deserialize_with = "raw")]
    stream_options: Option<&'b RawValue>,
    #[serde(default)]
    max_tokens: Value,
    #[serde(default)]
    max_completion_tokens: Value,
    #[serde(default)]
    max_output_tokens: Value,
    #[serde(default)]
    n: Value,
}

fn raw<'b, D: Deserializer<'b>>(value: D) -> Result<Option<&'b RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl<'b> GenerationOptions<'b> {
    /// Whether a body with these headers can be read: uncompressed JSON.
    pub fn can_read(headers: &HeaderMap) -> bool {
        matches!(BodyScanner::plain(headers), Ok(PlainScanner::Json(_)))
    }

    /// Reads a complete JSON body. `None` if it has none of the members, one of them twice, or if it is not valid.
    pub fn read(body: &'b [u8]) -> Option<Self> {
        static STREAM: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"stream\""));
        static MAX: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new("\"max_"));
        if STREAM.find(body).is_none() && MAX.find(body).is_none() {
            return None;
        }
        serde_json::from_slice(body).ok()
    }

    /// Maximum tokens of all choices together. `None` if the request sets no maximum.
    pub fn max_output_tokens(&self) -> Option<u64> {
        let limits = [&self.max_completion_tokens, &self.max_tokens, &self.max_output_tokens];
        let limit = limits.into_iter().find_map(Value::as_u64)?;
        Some(limit.saturating_mul(self.n.as_u64().unwrap_or(1)))
    }

    /// How to change `body`, the one that was read, so that its stream ends with a chunk of usage: the bytes to replace, and
    /// what to write instead. `None` if it is not streamed or reports its usage already.
    pub fn with_usage(&self, body: &[u8]) -> Option<(Range<usize>, String)> {
        if self.stream != Value::Bool(true) {
            return None;
        }
        let Some(raw) = self.stream_options else {
            let end = body.iter().rposition(|byte| *byte == b'}')?;
            return Some((end..end, format!(",\"{STREAM_OPTIONS}\":{{\"{INCLUDE_USAGE}\":true}}")));
        };
        let mut options: Map<String, Value> = match serde_json::from_str(raw.get()).ok()? {
            Value::Null => Map::new(),
            Value::Object(options) => options,
            _ => return None,
        };
        match options.insert(INCLUDE_USAGE.to_owned(), Value::Bool(true)) {
            None | Some(Value::Bool(false) | Value::Null) => {}
            // The client asks for it, or the engine refuses the request.
            Some(_) => return None,
        }
        options.remove(CONTINUOUS_USAGE);
        let start = (raw.get().as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
        let at = start..start + raw.get().len();
        (body.get(at.clone())? == raw.get().as_bytes()).then(|| (at, Value::Object(options).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(body: &str) -> Option<String> {
        let (at, text) = GenerationOptions::read(body.as_bytes())?.with_usage(body.as_bytes())?;
        let mut changed = body.to_owned();
        changed.replace_range(at, &text);
        Some(changed)
    }

    #[test]
    fn usage_is_added_to_streams_that_do_not_report_it() {
        for (body, expected) in [
            (
                r#"{"stream": true, "prompt": "\"stream_options\": {}}" } "#,
                r#"{"stream": true, "prompt": "\"stream_options\": {}}" ,"stream_options":{"include_usage":true}} "#,
            ),
            (
                r#"{"stream_options": null,"stream":true}"#,
                r#"{"stream_options": {"include_usage":true},"stream":true}"#,
            ),
            (
                r#"{"stream_options":{},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":false,"continuous_usage_stats":true,"x":[1]},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"x":[1]},"stream":true}"#,
            ),
        ] {
            assert_eq!(changed(body).as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn other_requests_are_not_changed() {
        for body in [
            r#"{"stream":false}"#,
            r#"{"prompt":"\"stream\""}"#,
            r#"{"stream":"true"}"#,
            r#"{"stream":null}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":"no"}}"#,
            r#"{"stream":true,"stream_options":[]}"#,
            // Which one counts depends on the parser.
            r#"{"stream":true,"stream":false}"#,
            r#"{"stream":true,"stream_options":null,"stream_options":{}}"#,
            r#"{"stream":true"#,
            r#"{"stream":true}x"#,
            r#"[{"stream":true}]"#,
            "",
        ] {
            assert_eq!(changed(body), None, "{body}");
        }
    }

    #[test]
    fn reads_the_maximum_of_the_output() {
        for (body, expected) in [
            (r#"{"max_tokens":5}"#, Some(5)),
            (r#"{"max_tokens":5,"max_completion_tokens":7}"#, Some(7)),
            (r#"{"max_output_tokens":9,"n":null}"#, Some(9)),
            (r#"{"max_tokens":5,"n":3}"#, Some(15)),
            (r#"{"max_tokens":18446744073709551615,"n":3}"#, Some(u64::MAX)),
            (r#"{"max_tokens":-1}"#, None),
            (r#"{"max_tokens":null,"max_completion_tokens":"7"}"#, None),
            (r#"{"prompt":"\"max_tokens\":5"}"#, None),
            (r#"{"n":3}"#, None),
        ] {
            let options = GenerationOptions::read(body.as_bytes());
            assert_eq!(options.and_then(|options| options.max_output_tokens()), expected, "{body}");
        }
    }
}
