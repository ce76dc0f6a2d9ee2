use crate::router::{Outcome, Time};

/// What a client and its engine saw of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    pub entry: usize,
    /// Sent to a pod without asking the router.
    pub foreign: bool,
    pub pod: usize,
    pub sent_at: Time,
    pub first_byte_at: Option<Time>,
    pub ended_at: Time,
    pub outcome: Outcome,
    pub prompt_tokens: u32,
    /// Prompt tokens that the engine had cached. Known with the first byte.
    pub cached_tokens: u32,
    /// Output tokens of a completed request; 0 otherwise.
    pub output_tokens: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunResult {
    pub pods: usize,
    /// One per entry of the trace, in order of their ends.
    pub records: Vec<RequestRecord>,
    /// Preemptions of all engines.
    pub preemptions: u64,
}
