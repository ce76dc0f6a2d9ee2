//! Finds the `usage` object of a JSON text while it passes, wherever it stands: vLLM writes `prompt_logprobs`,
//! `prompt_token_ids` and `kv_transfer_params` behind it, which may be megabytes.

use std::sync::LazyLock;

use memchr::memmem;
use serde::Deserialize;

use super::tokens::{Members, Usage};
use crate::nested::NestedValue;
use crate::string::{StringState, plain_string, skip_string};

/// A quote inside a string is escaped, so a match is the name of a member or a whole string.
const NAME: &[u8] = b"\"usage\"";
/// Largest `usage` object that is read. Engines write less than 300 bytes.
const MAX_OBJECT_BYTES: usize = 4 << 10;

/// Reads `usage` objects from the bytes of a JSON text. A later object supplements or replaces what an earlier one said.
#[derive(Debug, Default)]
pub(super) struct UsageFinder {
    usage: Usage,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The last bytes, fewer than those of [`NAME`].
    Search { tail: Vec<u8> },
    /// After the name.
    Colon,
    /// After the colon.
    Value,
    /// In the object.
    Object { bytes: Vec<u8>, nested: NestedValue },
}

impl Default for State {
    fn default() -> Self {
        Self::Search { tail: Vec::new() }
    }
}

impl UsageFinder {
    /// What was found so far.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Reads the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.step(bytes);
        }
    }

    /// Returns the bytes that are left.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match &mut self.state {
            State::Search { tail } => match search(tail, bytes) {
                Some(rest) => {
                    self.state = State::Colon;
                    rest
                }
                None => &[],
            },
            State::Colon | State::Value => {
                let rest = bytes.trim_ascii_start();
                let Some((first, after)) = rest.split_first() else { return &[] };
                // Most objects are complete and plain.
                let object = &rest[..rest.len().min(MAX_OBJECT_BYTES)];
                if let (State::Value, Some((usage, used))) = (&self.state, plain(object)) {
                    self.usage.update(usage);
                    self.state = State::default();
                    return &rest[used..];
                }
                self.state = match (&self.state, first) {
                    (State::Colon, b':') => State::Value,
                    (State::Value, b'{') => {
                        State::Object { bytes: vec![b'{'], nested: NestedValue::opened() }
                    }
                    // `null`, or a string that is not a name: read again as anything else.
                    _ => {
                        self.state = State::default();
                        return rest;
                    }
                };
                after
            }
            State::Object { bytes: object, nested } => {
                // At the limit the search is resumed, at a byte that does not depend on how the bytes are split.
                let readable = &bytes[..bytes.len().min(MAX_OBJECT_BYTES - object.len())];
                // So few bytes are not nested too deeply.
                let end = nested.skip(readable).unwrap_or_default();
                let (taken, rest) = bytes.split_at(end.unwrap_or(readable.len()));
                object.extend_from_slice(taken);
                if end.is_some() {
                    if let Some(usage) = read(object) {
                        self.usage.update(usage);
                    }
                    self.state = State::default();
                } else if object.len() == MAX_OBJECT_BYTES {
                    self.state = State::default();
                }
                rest
            }
        }
    }
}

/// The bytes after the first [`NAME`] in `tail` and `bytes`. Without a match, `tail` keeps what may begin one.
fn search<'a>(tail: &mut Vec<u8>, bytes: &'a [u8]) -> Option<&'a [u8]> {
    static FINDER: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new(NAME));
    let old = tail.len();
    tail.extend_from_slice(&bytes[..bytes.len().min(NAME.len() - 1)]);
    if let Some(at) = FINDER.find(tail) {
        return Some(&bytes[at + NAME.len() - old..]);
    }
    if let Some(at) = FINDER.find(bytes) {
        return Some(&bytes[at + NAME.len()..]);
    }
    if bytes.len() >= NAME.len() {
        tail.clear();
        tail.extend_from_slice(&bytes[bytes.len() - (NAME.len() - 1)..]);
    } else {
        tail.drain(..tail.len().saturating_sub(NAME.len() - 1));
    }
    None
}

/// Reads one complete object.
pub(super) fn read(object: &[u8]) -> Option<Usage> {
    let plain = plain(object).map(|(usage, _)| usage);
    plain.or_else(|| Usage::deserialize(&mut serde_json::Deserializer::from_slice(object)).ok())
}

/// Usage in the form that engines write, and its length. `None` for other forms, which may be valid; [`read`] then asks
/// `serde_json`.
fn plain(json: &[u8]) -> Option<(Usage, usize)> {
    let mut members = Members::default();
    let mut rest = json.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    loop {
        let after_quote = rest.strip_prefix(b"\"")?;
        let name = plain_string(after_quote)?;
        rest = after_quote[name.len() + 1..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        rest = read_member(name, rest, &mut members)?.trim_ascii_start();
        match rest.split_first()? {
            (b',', after) => rest = after.trim_ascii_start(),
            (b'}', after) => return Some((members.into(), json.len() - after.len())),
            _ => return None,
        }
    }
}

/// Reads the value that `rest` starts with. Returns the bytes after it.
fn read_member<'a>(name: &[u8], rest: &'a [u8], members: &mut Members) -> Option<&'a [u8]> {
    let tokens = match name {
        b"prompt_tokens" | b"input_tokens" => &mut members.prompt_tokens,
        b"completion_tokens" | b"output_tokens" => &mut members.completion_tokens,
        _ => {
            let after = skip_value(rest)?;
            let details = match name {
                b"prompt_tokens_details" | b"input_tokens_details" => &mut members.prompt_tokens_details,
                b"completion_tokens_details" | b"output_tokens_details" => {
                    &mut members.completion_tokens_details
                }
                b"cache_read_input_tokens" => &mut members.cache_read_input_tokens,
                _ => return Some(after),
            };
            *details = serde_json::from_slice(&rest[..rest.len() - after.len()]).ok()?;
            return Some(after);
        }
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    *tokens = Some(str::from_utf8(&rest[..digits]).ok()?.parse().ok()?);
    Some(&rest[digits..])
}

/// The bytes after the value that `json` starts with. `None` if the value does not end in `json`, or if it has bytes that no
/// number and no literal has: [`NestedValue`] may see brackets in them.
fn skip_value(json: &[u8]) -> Option<&[u8]> {
    let (first, rest) = json.split_first()?;
    match first {
        b'"' => match skip_string(rest, StringState::Inside) {
            (used, StringState::Ended) => Some(&rest[used..]),
            _ => None,
        },
        b'{' | b'[' => Some(&rest[NestedValue::opened().skip(rest).ok()??..]),
        _ => {
            let is_scalar = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
            let end = json.iter().position(|byte| !is_scalar(byte))?;
            (end > 0).then_some(&json[end..])
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(body: &str, piece_bytes: usize) -> Usage {
        let mut finder = UsageFinder::default();
        body.as_bytes().chunks(piece_bytes).for_each(|piece| finder.feed(piece));
        finder.usage()
    }

    fn usage(prompt_tokens: impl Into<Option<u64>>, completion_tokens: impl Into<Option<u64>>) -> Usage {
        let (prompt_tokens, completion_tokens) = (prompt_tokens.into(), completion_tokens.into());
        Usage { prompt_tokens, completion_tokens, ..Usage::default() }
    }

    fn detailed(cached: impl Into<Option<u64>>, reasoning: impl Into<Option<u64>>) -> Usage {
        Usage { cached_tokens: cached.into(), reasoning_tokens: reasoning.into(), ..usage(7, 2) }
    }

    #[test]
    fn reads_usage_in_every_valid_form() {
        for (json, expected) in [
            (r#"{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}"#, usage(7, 2)),
            (
                r#"{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":[1,{"a":"}"}]},"completion_tokens":2}"#,
                usage(7, 2),
            ),
            (r#"{"input_tokens" : 7 , "x" : null, "output_tokens": 2 , "y":-1.5e3}"#, usage(7, 2)),
            (r#"{"prompt_tokens":7,"a\"b":"\\","completion_tokens":2}"#, usage(7, 2)),
            (r#"{"prompt_tokens":7}"#, usage(7, None)),
            (r#"{"output_tokens":7,"input_tokens":null}"#, usage(None, 7)),
            (
                r#"{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"x":1,"reasoning_tokens":1}}"#,
                detailed(5, 1),
            ),
            (
                r#"{"input_tokens":7,"output_tokens":2,"input_tokens_details":{"cached_tokens":0},"output_tokens_details":null}"#,
                detailed(0, None),
            ),
            (r#"{"input_tokens":7,"output_tokens":2,"cache_read_input_tokens":4}"#, detailed(4, None)),
            (
                r#"{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":-5},"completion_tokens_details":[1]}"#,
                detailed(None, None),
            ),
            (r"{}", usage(None, None)),
            ("null", usage(None, None)),
            (r#"{"prompt_tokens":-7}"#, usage(None, None)),
            (r#"{"prompt_tokens":7,"#, usage(None, None)),
            (r#"{"prompt_tokens":99999999999999999999999}"#, usage(None, None)),
        ] {
            for body in
                [format!("{{\"usage\":{json}}}"), format!("{{\"a\":[], \"usage\" :\n {json} ,\"x\":1}}")]
            {
                for piece_bytes in [1, 2, 3, 7, 1000] {
                    assert_eq!(found(&body, piece_bytes), expected, "{body} in pieces of {piece_bytes}");
                }
            }
            let parsed = serde_json::from_str::<Usage>(json).ok();
            assert!(plain(json.as_bytes()).is_none_or(|(usage, _)| Some(usage) == parsed), "{json}");
        }
    }

    #[test]
    fn finds_usage_wherever_it_stands() {
        let long = "[1,{\"usage\":null,\"b\":\"usage\"}],".repeat(10_000);
        let body = format!(
            r#"{{"choices":[{{"text":"{}"}}],"a":[{long}0],"usage":{{"prompt_tokens":5,"completion_tokens":6}},"prompt_logprobs":[{long}0]}}"#,
            "\\\"usage\\\":{} ".repeat(10_000)
        );
        for piece_bytes in [1, 5, 6, 7, 8, 4096, 1_000_000] {
            assert_eq!(found(&body, piece_bytes), usage(5, 6), "{piece_bytes}");
        }
    }

    proptest! {
        #[test]
        fn splits_change_nothing(
            members in prop::collection::vec(prop::sample::select(vec![
                r#""prompt_tokens":1"#, r#""completion_tokens":2"#, r#""x":12"#, r#""x": "}""#, r#""x":{"a":[]}"#,
                r#""usage":{"prompt_tokens":3}"#, r#""prompt_tokens_details":{"cached_tokens":4}"#, r#""x":LONG"#, r#""x":a{b"#, r#""x":["#, r#""x":"#, r#""x":"\"#, "}",
            ]), 0..8),
            piece_bytes in 1_usize..40,
        ) {
            // Some objects are longer than the limit. Some are not valid.
            let body = format!(r#""usage":{{{}}}"#, members.join(","));
            let body = body.replace("LONG", &"0".repeat(MAX_OBJECT_BYTES / 2));
            prop_assert_eq!(found(&body, piece_bytes), found(&body, usize::MAX), "{}", body);
        }
    }

    #[test]
    fn bounds_memory_for_an_object_without_end() {
        let mut finder = UsageFinder::default();
        finder.feed(b"{\"usage\":{\"a\":\"");
        for _ in 0..1000 {
            finder.feed(&[b'x'; 1000]);
        }
        assert!(
            matches!(&finder.state, State::Search { tail } if tail.len() < NAME.len()),
            "{:?}",
            finder.state
        );
        finder.feed(b"\"}, \"usage\":{\"prompt_tokens\":1}}");
        assert_eq!(finder.usage(), usage(1, None));
    }
}
