//! Metrics of engines: valid samples are read as the format defines them.

use forebay_agent::engine::parse_metrics;

use crate::samples::{Sample, sample};

/// Reads a scrape.
pub fn metrics(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let load = parse_metrics(&text, 0);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("vllm:")).collect();
    let samples: Vec<Sample> = lines.iter().filter_map(|line| sample(line)).collect();
    if samples.len() < lines.len() {
        return;
    }
    // Engines do not report other values.
    let values = |name: &'static str| {
        let named = samples.iter().filter(move |sample| sample.name == name);
        named.map(|sample| sample.value).filter(|value| value.is_finite() && *value >= 0.0)
    };
    let Ok(load) = load else {
        return assert_eq!(values("vllm:num_requests_running").count(), 0);
    };
    let sum = |name| values(name).fold(0_u64, |sum, value| sum.saturating_add(value as u64));
    let sum_u32 = |name| values(name).fold(0_u32, |sum, value| sum.saturating_add(value as u32));
    assert_eq!(load.running, sum_u32("vllm:num_requests_running"));
    assert_eq!(load.waiting, sum_u32("vllm:num_requests_waiting"));
    assert_eq!(load.prompt_tokens, sum("vllm:prompt_tokens_total"));
    assert_eq!(load.requests_succeeded, sum("vllm:request_success_total"));
    let usage = values("vllm:kv_cache_usage_perc").reduce(f64::max);
    assert_eq!(load.kv_cache_usage, usage.or(values("vllm:gpu_cache_usage_perc").reduce(f64::max)));
    let config = samples.iter().rfind(|sample| {
        sample.name == "vllm:cache_config_info" && sample.value.is_finite() && sample.value >= 0.0
    });
    let label = |name: &str| {
        let labels = &config?.labels;
        labels.iter().find(|(label, _)| label == name)?.1.parse().ok()
    };
    assert_eq!((load.block_size_tokens, load.num_gpu_blocks), (label("block_size"), label("num_gpu_blocks")));
}
