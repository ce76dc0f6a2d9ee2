//! Finds the `usage` object of a JSON text while it passes, wherever it stands: vLLM writes `prompt_logprobs`,
//! `prompt_token_ids` and `kv_transfer_params` behind it, which may be megabytes.

use std::sync::LazyLock;

use memchr::memmem;
use serde::Deserialize;

use super::tokens::Usage;
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
                self.state = match (&self.state, first) {
                    (State::Colon, b':') => State::Value,
                    (State::Value, b'{') => {
                        State::Object { bytes: vec![b'{'], nested: NestedValue::opened() }
                    }
                    // `null`, or a string that is no name: read again as anything else.
                    _ => {
                        self.state = State::default();
                        return rest;
                    }
                };
                after
            }
            State::Object { bytes: object, nested } => {
                let Ok(end) = nested.skip(bytes) else {
                    self.state = State::default();
                    return bytes;
                };
                let (taken, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                if object.len() + taken.len() > MAX_OBJECT_BYTES {
                    self.state = State::default();
                    return rest;
                }
                object.extend_from_slice(taken);
                if end.is_some() {
                    if let Some(usage) = read(object) {
                        self.usage.update(usage);
                    }
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
    plain(object).or_else(|| Usage::deserialize(&mut serde_json::Deserializer::from_slice(object)).ok())
}

/// Usage in the form that engines write. `None` for other forms, which may be valid; [`read`] then asks `serde_json`.
fn plain(json: &[u8]) -> Option<Usage> {
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
                *tokens = Some(str::from_utf8(&rest[..digits]).ok()?.parse().ok()?);
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
    use super::*;

    fn found(body: &str, piece_bytes: usize) -> Usage {
        let mut finder = UsageFinder::default();
        body.as_bytes().chunks(piece_bytes).for_each(|piece| finder.feed(piece));
        finder.usage()
    }

    fn usage(prompt_tokens: impl Into<Option<u64>>, completion_tokens: impl Into<Option<u64>>) -> Usage {
        Usage { prompt_tokens: prompt_tokens.into(), completion_tokens: completion_tokens.into() }
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
            assert!(plain(json.as_bytes()).is_none_or(|usage| Some(usage) == parsed), "{json}");
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
