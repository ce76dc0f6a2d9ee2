//! Requests over time: from trace files, or generated from a seed.

mod content;
mod files;
mod generate;
mod random;

use std::{sync::Arc, time::Duration};

pub use content::Content;
pub use files::{TraceError, azure, mooncake};
pub use generate::{Agents, Bursts, CodeGeneration, Reasoning, SharedPrompts};

use crate::router::{BlockHash, Request, RequestId, Time};

/// When a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    At(Time),
    /// After the end of an earlier request of the session, however that ended.
    After {
        previous: usize,
        pause: Duration,
    },
}

/// A request and what only the simulator knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its `id` is the index of the entry.
    pub request: Request,
    pub start: Start,
    pub output_tokens: u32,
    /// Full prompt units that the output completes: the beginning of the session's next prompt.
    pub reply: Arc<[BlockHash]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub name: String,
    pub entries: Vec<Entry>,
}

impl Trace {
    /// Time of the last arrival that does not depend on another request.
    pub fn last_start(&self) -> Time {
        let starts = self.entries.iter().filter_map(|entry| match entry.start {
            Start::At(at) => Some(at),
            Start::After { .. } => None,
        });
        starts.max().unwrap_or(Time::ZERO)
    }

    /// The same requests with `factor` times the rate. Pauses inside sessions keep their length.
    #[must_use]
    pub fn at_rate(&self, factor: f64) -> Self {
        let mut scaled = self.clone();
        for entry in &mut scaled.entries {
            if let Start::At(at) = &mut entry.start {
                *at = Time::from_ns((at.as_ns() as f64 / factor) as u64);
            }
        }
        scaled
    }

    /// The first `count` requests. Sessions that begin among them may be cut.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let entries = self.entries.iter().take(count).cloned().collect();
        Self { name: self.name.clone(), entries }
    }

    fn push(&mut self, new: NewEntry) -> usize {
        let index = self.entries.len();
        let request = Request {
            id: RequestId(index as u64),
            session: new.session,
            prompt: new.prompt,
            prompt_tokens: new.prompt_tokens,
            prompt_bytes: new.prompt_tokens.saturating_mul(BYTES_PER_TOKEN),
            max_tokens: new.max_tokens,
        };
        let (start, output_tokens, reply) = (new.start, new.output_tokens.max(1), new.reply);
        self.entries.push(Entry { request, start, output_tokens, reply });
        index
    }
}

/// Bytes of a token on the wire, the estimate of llm-d's token producer.
const BYTES_PER_TOKEN: u32 = 4;

/// An entry without what [`Trace::push`] derives.
struct NewEntry {
    start: Start,
    session: Option<u64>,
    prompt: Arc<[BlockHash]>,
    prompt_tokens: u32,
    output_tokens: u32,
    max_tokens: u32,
    reply: Arc<[BlockHash]>,
}
