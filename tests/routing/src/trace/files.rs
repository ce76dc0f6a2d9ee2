//! Published traces, read from a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::{Content, NewEntry, Start, Trace};
use crate::{
    hashing::mix,
    router::{BlockHash, Time, UNIT_TOKENS},
};

/// Tokens of a hash in the Mooncake trace.
const MOONCAKE_TOKENS: u32 = 512;
const MOONCAKE_FILE: &str = "mooncake_conversation.jsonl";
const AZURE_FILE: &str = "azure_2023_conv.csv";

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The caller can skip what needs this trace.
    #[error("skipped: no trace file {}", .0.display())]
    Missing(PathBuf),
    #[error("cannot read {}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}:{line}: {problem}", .path.display())]
    Invalid { path: PathBuf, line: usize, problem: String },
}

/// `mooncake_conversation.jsonl` in `folder`: one hour of a chat service, with prefix hashes of 512 tokens.
pub fn mooncake(folder: &Path) -> Result<Trace, TraceError> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: u64,
        input_length: u32,
        output_length: u32,
        hash_ids: Vec<u64>,
    }
    parse_lines("mooncake", folder.join(MOONCAKE_FILE), 0, |text| {
        let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if line.hash_ids.len() != line.input_length.div_ceil(MOONCAKE_TOKENS) as usize {
            return Err(format!(
                "{} hash_ids for input_length {}, expected one per {MOONCAKE_TOKENS} tokens",
                line.hash_ids.len(),
                line.input_length
            ));
        }
        let prompt = expand(&line.hash_ids, line.input_length);
        Ok((Time::from_ms(line.timestamp), line.input_length, line.output_length, Some(prompt)))
    })
}

/// `azure_2023_conv.csv` in `folder`: an hour of a chat service. It has sizes only, so no prompt shares a prefix.
pub fn azure(folder: &Path) -> Result<Trace, TraceError> {
    let mut first = None;
    parse_lines("azure", folder.join(AZURE_FILE), 1, |text| {
        let fields: Vec<&str> = text.trim_end().split(',').collect();
        let [timestamp, input, output] = fields[..] else {
            return Err(format!("{} fields, expected TIMESTAMP,ContextTokens,GeneratedTokens", fields.len()));
        };
        let number = |name: &str, value: &str| {
            value.parse::<u32>().map_err(|error| format!("{name} {value:?}: {error}"))
        };
        let at = time_of_day_ns(timestamp)
            .ok_or_else(|| format!("TIMESTAMP {timestamp:?} is not YYYY-MM-DD HH:MM:SS.FFFFFFF"))?;
        let first = *first.get_or_insert(at);
        let (input, output) = (number("ContextTokens", input)?, number("GeneratedTokens", output)?);
        Ok((Time::from_ns(at.saturating_sub(first)), input, output, None))
    })
}

type Parsed = (Time, u32, u32, Option<Arc<[BlockHash]>>);

fn parse_lines(
    name: &str,
    path: PathBuf,
    skip: usize,
    mut parse: impl FnMut(&str) -> Result<Parsed, String>,
) -> Result<Trace, TraceError> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(TraceError::Missing(path)),
        Err(error) => return Err(TraceError::Read { path, error }),
    };
    let mut trace = Trace { name: name.to_owned(), entries: Vec::new() };
    for (index, line) in text.lines().enumerate().skip(skip).filter(|(_, line)| !line.trim().is_empty()) {
        let (at, prompt_tokens, output_tokens, prompt) = parse(line)
            .and_then(|parsed| if parsed.1 == 0 { Err("empty prompt".to_owned()) } else { Ok(parsed) })
            .map_err(|problem| TraceError::Invalid { path: path.clone(), line: index + 1, problem })?;
        let prompt = prompt.unwrap_or_else(|| {
            let mut unique = Content::default();
            unique.append(index as u64, prompt_tokens);
            unique.prompt()
        });
        trace.push(NewEntry {
            start: Start::At(at),
            session: None,
            prompt,
            prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            reply: Arc::default(),
        });
    }
    Ok(trace)
}

/// Units of [`UNIT_TOKENS`] from hashes of [`MOONCAKE_TOKENS`], chained, as many as the prompt has.
fn expand(hash_ids: &[u64], tokens: u32) -> Arc<[BlockHash]> {
    let mut chain = 0;
    let parts = u64::from(MOONCAKE_TOKENS / UNIT_TOKENS);
    let units = hash_ids.iter().flat_map(|&id| (0..parts).map(move |part| id * parts + part));
    let hashes = units.map(|unit| {
        chain = mix(chain, unit);
        BlockHash(chain)
    });
    hashes.take(tokens.div_ceil(UNIT_TOKENS) as usize).collect()
}

fn time_of_day_ns(timestamp: &str) -> Option<u64> {
    let (_, time) = timestamp.split_once(' ')?;
    let mut parts = time.split(':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    let whole = hours * 3600 + minutes * 60;
    (parts.next().is_none() && seconds >= 0.0).then(|| whole * 1_000_000_000 + (seconds * 1e9) as u64)
}
