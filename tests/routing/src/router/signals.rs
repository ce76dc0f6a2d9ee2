use serde::{Deserialize, Serialize};

use super::Time;

/// What the agent of a node reports of one endpoint. `None`: that source is not available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signals {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineView>,
}

/// Count and sum since the start of the pod. The difference of two views gives a recent mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    pub count: u64,
    pub sum_ns: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, count: u64, each_ns: u64) {
        self.count += count;
        self.sum_ns += count * each_ns;
    }
}

/// Counted at the pod's sockets, without lag, for all clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelView {
    pub measured_at: Time,
    pub in_flight: u32,
    /// `started = finished + aborted + in_flight`.
    pub started: u64,
    pub finished: u64,
    pub aborted: u64,
    /// Requests without a first response byte, and their bytes.
    pub waiting_first_byte: u32,
    pub waiting_request_bytes: u64,
    /// Arrival of the oldest request in flight.
    pub oldest_started_at: Option<Time>,
    pub last_response_byte_at: Option<Time>,
    pub request_bytes: u64,
    /// From the request's arrival at the pod to the first response byte.
    pub ttft: Totals,
    /// Between two chunks of one response.
    pub itl: Totals,
}

/// Gauges and counters on the engine's `/metrics`, as of the last scrape. They change at the end of engine steps only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineView {
    /// Time of the scrape. The values are from the engine step before it.
    pub measured_at: Time,
    /// `vllm:num_requests_running`
    pub running: u32,
    /// `vllm:num_requests_waiting`
    pub waiting: u32,
    /// `vllm:kv_cache_usage_perc`, 0..1. Cached blocks without a request are not counted.
    pub kv_cache_usage: f64,
    /// `vllm:prompt_tokens_total`
    pub prompt_tokens: u64,
    /// `vllm:generation_tokens_total`
    pub generation_tokens: u64,
    /// `vllm:prefix_cache_queries_total`, tokens.
    pub prefix_cache_queries: u64,
    /// `vllm:prefix_cache_hits_total`, tokens.
    pub prefix_cache_hits: u64,
    /// `vllm:num_preemptions_total`
    pub preemptions: u64,
    /// `vllm:iteration_tokens_total_count`
    pub steps: u64,
    /// `vllm:cache_config_info`
    pub block_size_tokens: u32,
    pub num_gpu_blocks: u32,
}
