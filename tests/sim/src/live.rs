//! Counters and gauges of the engine.

use std::sync::atomic::AtomicU64;

/// Current counters and gauges. `/metrics` shows them with a delay.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) running: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) blocks_used: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
    /// Steps of the engine: parts of prompts, and tokens. A batch of vLLM makes fewer.
    pub(crate) steps: AtomicU64,
    pub(crate) succeeded: AtomicU64,
}
