//! `/metrics` of vLLM. Values are published with a delay, as vLLM does after engine steps.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use crate::{engine::Engine, live::Live};

/// The last published values.
#[derive(Clone, Copy, Debug, Default)]
struct Published {
    running: u64,
    waiting: u64,
    kv_cache_usage: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
    generation_tokens: u64,
    steps: u64,
    succeeded: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Published>);

impl Metrics {
    /// Publishes the values of the engine every `lag`.
    pub(crate) async fn follow(self: Arc<Self>, engine: Arc<Engine>, lag: Duration) {
        loop {
            self.publish(&engine);
            tokio::time::sleep(lag).await;
        }
    }

    fn publish(&self, engine: &Engine) {
        let Live {
            running,
            waiting,
            blocks_used,
            prompt_tokens,
            cached_tokens,
            generation_tokens,
            steps,
            succeeded,
        } = &engine.live;
        let usage = blocks_used.load(Relaxed) as f64 / f64::from(engine.options.num_gpu_blocks.max(1));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Published {
            running: running.load(Relaxed),
            waiting: waiting.load(Relaxed),
            kv_cache_usage: usage.min(1.0),
            prompt_tokens: prompt_tokens.load(Relaxed),
            cached_tokens: cached_tokens.load(Relaxed),
            generation_tokens: generation_tokens.load(Relaxed),
            steps: steps.load(Relaxed),
            succeeded: succeeded.load(Relaxed),
        };
    }

    pub(crate) fn render(&self, model: &str, engine: &Engine) -> String {
        let now = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = format!("engine=\"0\",model_name=\"{model}\"");
        let mut text = String::new();
        let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
            let _ =
                writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}}} {value:?}");
        };
        gauge(
            "vllm:num_requests_running",
            "gauge",
            "Number of requests in model execution batches.",
            now.running as f64,
        );
        gauge(
            "vllm:num_requests_waiting",
            "gauge",
            "Number of requests waiting to be processed.",
            now.waiting as f64,
        );
        gauge(
            "vllm:kv_cache_usage_perc",
            "gauge",
            "KV-cache usage. 1 means 100 percent usage.",
            now.kv_cache_usage,
        );
        gauge(
            "vllm:prefix_cache_queries_total",
            "counter",
            "Prefix cache queries, in terms of number of queried tokens.",
            now.prompt_tokens as f64,
        );
        gauge(
            "vllm:prefix_cache_hits_total",
            "counter",
            "Prefix cache hits, in terms of number of cached tokens.",
            now.cached_tokens as f64,
        );
        gauge(
            "vllm:num_preemptions_total",
            "counter",
            "Cumulative number of preemption from the engine.",
            0.0,
        );
        gauge(
            "vllm:prompt_tokens_total",
            "counter",
            "Number of prefill tokens processed.",
            now.prompt_tokens as f64,
        );
        gauge(
            "vllm:generation_tokens_total",
            "counter",
            "Number of generation tokens processed.",
            now.generation_tokens as f64,
        );
        let _ = writeln!(
            text,
            "# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.\n\
             # TYPE vllm:iteration_tokens_total histogram\n\
             vllm:iteration_tokens_total_bucket{{{labels},le=\"+Inf\"}} {steps:?}\n\
             vllm:iteration_tokens_total_count{{{labels}}} {steps:?}\n\
             vllm:iteration_tokens_total_sum{{{labels}}} {tokens:?}",
            steps = now.steps as f64,
            tokens = (now.prompt_tokens + now.generation_tokens) as f64,
        );
        let _ = writeln!(
            text,
            "# HELP vllm:request_success_total Count of successfully processed requests.\n\
             # TYPE vllm:request_success_total counter"
        );
        for (reason, value) in
            [("stop", 0), ("length", now.succeeded), ("abort", 0), ("error", 0), ("repetition", 0)]
        {
            let _ = writeln!(
                text,
                "vllm:request_success_total{{engine=\"0\",finished_reason=\"{reason}\",model_name=\"{model}\"}} {:?}",
                value as f64
            );
        }
        let (block_size, blocks) = (engine.options.block_size, engine.options.num_gpu_blocks);
        let _ = writeln!(
            text,
            "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n\
             # TYPE vllm:cache_config_info gauge\n\
             vllm:cache_config_info{{block_size=\"{block_size}\",cache_dtype=\"auto\",enable_prefix_caching=\"True\",\
             engine=\"0\",num_gpu_blocks=\"{blocks}\"}} 1.0"
        );
        text
    }
}
