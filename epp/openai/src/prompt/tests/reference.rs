//! The features of a whole body, computed in the plainest way. The fuzz target `prompt` uses it too.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{
    MAX_CACHE_SALT_BYTES, MAX_PROMPT_BLOCKS, PROMPT_BLOCK_BYTES, PromptScanner, RequestKind, seeded_block,
};

/// Everything that a scanner says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) is_complete: bool,
    pub(crate) context_is_known: bool,
    pub(crate) context: Vec<u64>,
    pub(crate) context_digest: u64,
    pub(crate) turns: Vec<u64>,
    pub(crate) prompt_bytes: u64,
    pub(crate) media_items: u32,
    pub(crate) media_bytes: u64,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) priority: Option<i64>,
    pub(crate) stream: Option<bool>,
    pub(crate) n: Option<u32>,
    pub(crate) cache_salt: Option<Vec<u8>>,
}

impl Features {
    pub(crate) fn of(scanner: &PromptScanner) -> Self {
        Self {
            is_complete: scanner.is_complete(),
            context_is_known: scanner.context_is_known(),
            context: scanner.context_blocks().collect(),
            context_digest: scanner.context_digest(),
            turns: scanner.turn_blocks().to_vec(),
            prompt_bytes: scanner.prompt_bytes(),
            media_items: scanner.media_items(),
            media_bytes: scanner.media_bytes(),
            max_tokens: scanner.max_tokens(),
            priority: scanner.priority(),
            stream: scanner.stream(),
            n: scanner.n(),
            cache_salt: scanner.cache_salt().map(<[u8]>::to_vec),
        }
    }

    /// What a scanner must say about the body. `None` if serde_json does not read it as an object.
    pub(crate) fn expected(kind: RequestKind, body: &[u8]) -> Option<Self> {
        let Members(members) = serde_json::from_slice(body).ok()?;
        let last =
            |wanted: &str| members.iter().rfind(|(name, _)| name == wanted).map(|(_, value)| value.get());
        let prompt =
            |name: &&str| last(name).filter(|value| value.starts_with(['"', '[', '{'])).map(canonical);
        let mut features = Self {
            is_complete: true,
            context_is_known: true,
            max_tokens: ["max_completion_tokens", "max_tokens", "max_output_tokens"]
                .iter()
                .find_map(|name| last(name)?.parse().ok()),
            priority: last("priority").and_then(|value| value.parse().ok()),
            stream: last("stream").and_then(|value| value.parse().ok()),
            n: last("n").and_then(|value| value.parse().ok()),
            cache_salt: last("cache_salt").and_then(|value| {
                let salt = value.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
                Some(salt[..salt.len().min(MAX_CACHE_SALT_BYTES)].to_vec())
            }),
            ..Self::default()
        };
        let (turns, context) = members_of(kind);
        for (name, seed) in context {
            let Some(value) = prompt(name) else { continue };
            features.count(&value);
            let (hashes, digest) = chain(&value.bytes, *seed);
            let before = features.context_digest;
            features.context.extend(hashes.iter().map(|hash| seeded_block(before, *hash)));
            features.context_digest = seeded_block(before, digest);
        }
        if let Some(value) = turns.iter().find_map(prompt) {
            features.count(&value);
            features.turns = chain(&value.bytes, 0).0;
        }
        Some(features)
    }

    fn count(&mut self, value: &Value) {
        self.prompt_bytes += value.bytes.len() as u64;
        self.media_items += value.media.len() as u32;
        self.media_bytes += value.media.iter().map(|bytes| *bytes as u64).sum::<u64>();
    }
}

/// Names of the turns; names and seeds of the context.
fn members_of(kind: RequestKind) -> (&'static [&'static str], &'static [(&'static str, u64)]) {
    match kind {
        RequestKind::ChatCompletions => (
            &["messages"],
            &[
                ("chat_template", 1),
                ("chat_template_kwargs", 2),
                ("reasoning_effort", 3),
                ("tools", 7),
                ("functions", 8),
                ("documents", 9),
            ],
        ),
        RequestKind::Completions => (&["prompt"], &[]),
        RequestKind::Responses => {
            (&["input"], &[("chat_template_kwargs", 2), ("reasoning", 4), ("instructions", 6), ("tools", 7)])
        }
        RequestKind::Messages => (&["messages"], &[("chat_template_kwargs", 2), ("system", 5), ("tools", 7)]),
        RequestKind::Embeddings => (&["input", "messages"], &[]),
    }
}

struct Value {
    bytes: Vec<u8>,
    /// Length of each image, recording or file.
    media: Vec<usize>,
}

/// The canonical bytes of a valid JSON value.
fn canonical(json: &str) -> Value {
    let tokens = tokens(json);
    let (mut bytes, mut media) = (Vec::new(), Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        let content = token.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or("");
        let is_data = at >= 2 && tokens[at - 2..at] == ["\"data\"", ":"];
        let is_base64 = content.len() >= 64
            && content.bytes().take(64).all(|it| it.is_ascii_alphanumeric() || b"+/-_=".contains(&it));
        if content.starts_with("data:") || is_data && is_base64 {
            media.push(content.len());
            bytes.extend_from_slice(format!("{:016x}", xxh3_64(content.as_bytes())).as_bytes());
        } else {
            bytes.extend_from_slice(token.as_bytes());
        }
    }
    Value { bytes, media }
}

/// Strings, and single characters of everything else but whitespace.
fn tokens(json: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        let end = if first == '"' { string_length(rest) } else { first.len_utf8() };
        let (token, after) = rest.split_at(end);
        if !first.is_ascii_whitespace() {
            tokens.push(token);
        }
        rest = after;
    }
    tokens
}

/// Length of the string that a valid JSON text begins with, including its quotes.
pub(crate) fn string_length(json: &str) -> usize {
    let mut end = 1;
    while !json[end..].starts_with('"') {
        end += usize::from(json[end..].starts_with('\\'));
        end += json[end..].chars().next().map_or(0, char::len_utf8);
    }
    end + 1
}

/// The hashes of all whole blocks, and the digest.
fn chain(bytes: &[u8], seed: u64) -> (Vec<u64>, u64) {
    let mut hashes = Vec::new();
    let mut last = seed;
    let mut rest = bytes;
    while hashes.len() < MAX_PROMPT_BLOCKS && rest.len() >= PROMPT_BLOCK_BYTES {
        last = seeded_block(last, xxh3_64(&rest[..PROMPT_BLOCK_BYTES]));
        hashes.push(last);
        rest = &rest[PROMPT_BLOCK_BYTES..];
    }
    let tail = if hashes.len() < MAX_PROMPT_BLOCKS { rest } else { &[] };
    (hashes, xxh3_64_with_seed(tail, last))
}

/// The members of a root object in order, duplicates kept.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
