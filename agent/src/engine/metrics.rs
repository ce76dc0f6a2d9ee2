//! Parses the families of vLLM's `/metrics` that telemetry uses (Prometheus text format 0.0.4).

use forebay_telemetry::v1::EngineLoad;

use super::{adapters, labels::label};

/// Why a scrape cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetricsError {
    /// The family that every vLLM server has is missing.
    #[error("/metrics has no vllm:num_requests_running; not a vLLM server")]
    NotVllm,
}

/// Parses a scrape. Values of several engines (data parallel ranks behind one port) are added; for the KV cache usage
/// the maximum is taken. Names of older vLLM versions are used if the current name is absent: vLLM 0.9 and 0.10 expose both
/// with the same values.
pub fn parse(text: &str, measured_boottime_ns: u64) -> Result<EngineLoad, MetricsError> {
    let mut load = EngineLoad { measured_boottime_ns, ..EngineLoad::default() };
    let mut older = EngineLoad::default();
    let (mut has_queries, mut has_hits) = (false, false);
    let mut is_vllm = false;
    let mut adapters_at = 0.0;
    for line in text.lines() {
        let Some(line) = line.strip_prefix("vllm:") else { continue };
        let Some((name, labels, value)) = split_sample(line) else { continue };
        match name {
            "num_requests_running" => {
                is_vllm = true;
                load.running = load.running.saturating_add(value as u32);
            }
            "num_requests_waiting" => load.waiting = load.waiting.saturating_add(value as u32),
            "kv_cache_usage_perc" => keep_max(&mut load.kv_cache_usage, value),
            "gpu_cache_usage_perc" => keep_max(&mut older.kv_cache_usage, value),
            "prompt_tokens_total" => add(&mut load.prompt_tokens, value),
            "generation_tokens_total" => add(&mut load.generation_tokens, value),
            "prefix_cache_queries_total" => {
                has_queries = true;
                add(&mut load.prefix_cache_queries, value);
            }
            "gpu_prefix_cache_queries_total" => add(&mut older.prefix_cache_queries, value),
            "prefix_cache_hits_total" => {
                has_hits = true;
                add(&mut load.prefix_cache_hits, value);
            }
            "gpu_prefix_cache_hits_total" => add(&mut older.prefix_cache_hits, value),
            "iteration_tokens_total_count" => {
                load.steps = Some(load.steps.unwrap_or_default().saturating_add(value as u64));
            }
            "engine_sleep_state" if label(labels, "sleep_state") == Some("awake") => {
                load.sleeping = Some(load.sleeping == Some(true) || value == 0.0);
            }
            "num_preemptions_total" => add(&mut load.preemptions, value),
            "request_success_total" => add(&mut load.requests_succeeded, value),
            "cache_config_info" => {
                load.block_size_tokens = label(labels, "block_size").and_then(|it| it.parse().ok());
                load.num_gpu_blocks = label(labels, "num_gpu_blocks").and_then(|it| it.parse().ok());
            }
            // The value is the time of the sample; earlier label sets stay. Engines behind one port write one series.
            "lora_requests_info" if value >= adapters_at => {
                adapters_at = value;
                load.adapters = Some(adapters::parse(labels));
            }
            _ => {}
        }
    }
    load.kv_cache_usage = load.kv_cache_usage.or(older.kv_cache_usage);
    if !has_queries {
        load.prefix_cache_queries = older.prefix_cache_queries;
    }
    if !has_hits {
        load.prefix_cache_hits = older.prefix_cache_hits;
    }
    if is_vllm { Ok(load) } else { Err(MetricsError::NotVllm) }
}

fn keep_max(gauge: &mut Option<f64>, value: f64) {
    *gauge = Some(gauge.unwrap_or(0.0).max(value));
}

/// Saturates: an engine may report any number.
fn add(counter: &mut u64, value: f64) {
    *counter = counter.saturating_add(value as u64);
}

/// `name{labels} value [timestamp]`; labels without their braces. Blanks and tabs may separate the parts.
fn split_sample(line: &str) -> Option<(&str, &str, f64)> {
    let is_blank = |c| matches!(c, ' ' | '\t');
    let name_end = line.find(|c| c == '{' || is_blank(c))?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.trim_start_matches(is_blank).strip_prefix('{') {
        // A label value may contain a brace, so the last one ends the labels.
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest),
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((name, labels, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-0.6B"} 8.0
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen3-0.6B"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="Qwen/Qwen3-0.6B"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 2186.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7953683726434708e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 128.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 2.5e+03
vllm:generation_tokens_total{engine="0",model_name="m"} 4118.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} 0.0
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="discard_all"} 1.0
vllm:iteration_tokens_total_bucket{engine="0",le="8.0",model_name="m"} 70.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 77.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 900.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 4.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 5.0
vllm:cache_config_info{_block_size_resolved="True",block_size="128",odd="a}b",num_gpu_blocks="8192",engine="0"} 1.0
http_requests_total{handler="/v1/models",method="GET",status="2xx"} 1.0
"#;

    #[test]
    fn parses_a_scrape_of_vllm() {
        let load = parse(SCRAPE, 7).unwrap();
        assert_eq!(
            load,
            EngineLoad {
                measured_boottime_ns: 7,
                running: 8,
                waiting: 3,
                kv_cache_usage: Some(0.25),
                prompt_tokens: 2500,
                generation_tokens: 4118,
                prefix_cache_queries: 2186,
                prefix_cache_hits: 128,
                preemptions: 2,
                requests_succeeded: 9,
                steps: Some(77),
                sleeping: Some(true),
                block_size_tokens: Some(128),
                num_gpu_blocks: Some(8192),
                models: Vec::new(),
                models_omitted: 0,
                adapters: None,
            }
        );
    }

    #[test]
    fn the_newest_series_has_the_adapters() {
        let series = |max: u32, running: &str, at: &str| {
            format!(
                "vllm:lora_requests_info{{max_lora=\"{max}\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"c\"}} {at}\n"
            )
        };
        let newest = series(4, "a,b", "1.7e+09");
        let oldest = series(9, "z", "1.6e+09");
        for text in [format!("{oldest}{newest}"), format!("{newest}{oldest}")] {
            let load = parse(&format!("vllm:num_requests_running 1\n{text}"), 0).unwrap();
            let adapters = load.adapters.unwrap();
            assert_eq!((adapters.slots, adapters.running), (4, vec!["a".to_owned(), "b".to_owned()]));
        }
    }

    #[test]
    fn adds_engines_behind_one_port() {
        let two = "vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\"} 3\n\
                   vllm:kv_cache_usage_perc{engine=\"0\"} 0.9\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.1\n";
        let load = parse(two, 0).unwrap();
        assert_eq!((load.running, load.kv_cache_usage), (5, Some(0.9)));
    }

    #[test]
    fn older_names_replace_current_ones_that_are_absent_and_are_not_added() {
        let older = "vllm:num_requests_running 1\nvllm:gpu_cache_usage_perc 0.5\n\
                     vllm:gpu_prefix_cache_queries_total 10\nvllm:gpu_prefix_cache_hits_total 4\n";
        let current = "vllm:kv_cache_usage_perc 0.4\nvllm:prefix_cache_queries_total 10\n\
                       vllm:prefix_cache_hits_total 0\n";
        let values = |text: &str| {
            let load = parse(text, 0).unwrap();
            (load.kv_cache_usage, load.prefix_cache_queries, load.prefix_cache_hits)
        };
        assert_eq!(values(older), (Some(0.5), 10, 4));
        assert_eq!(values(&format!("{older}{current}")), (Some(0.4), 10, 0));
        assert_eq!(values(&format!("{current}{older}")), (Some(0.4), 10, 0));
    }

    #[test]
    fn escaped_quotes_in_one_label_do_not_hide_another() {
        let text = r#"vllm:num_requests_running 1
vllm:cache_config_info{odd="a\",block_size=\"7",block_size="16", num_gpu_blocks = "8"} 1
"#;
        let load = parse(text, 0).unwrap();
        assert_eq!((load.block_size_tokens, load.num_gpu_blocks), (Some(16), Some(8)));
    }

    #[test]
    fn blanks_and_tabs_separate_the_parts_of_a_sample() {
        let load =
            parse("vllm:num_requests_running\t2\nvllm:num_requests_waiting {a=\"b\"}\t3 7\n", 0).unwrap();
        assert_eq!((load.running, load.waiting), (2, 3));
    }

    #[test]
    fn saturates_large_numbers() {
        let absurd = "vllm:num_requests_running{engine=\"0\"} 1e300\nvllm:num_requests_running{engine=\"1\"} 1\n\
                      vllm:prompt_tokens_total 1e300\nvllm:prompt_tokens_total 1e300\n";
        let load = parse(absurd, 0).unwrap();
        assert_eq!((load.running, load.prompt_tokens), (u32::MAX, u64::MAX));
    }

    #[test]
    fn missing_families_are_absent() {
        let load = parse("vllm:num_requests_running 0\n", 0).unwrap();
        assert_eq!((load.kv_cache_usage, load.block_size_tokens), (None, None));
    }

    #[test]
    fn rejects_metrics_of_another_program() {
        assert_eq!(parse("up 1\n", 0), Err(MetricsError::NotVllm));
        for noise in
            ["vllm:", "vllm:num_requests_running", "vllm:x{", "vllm:x{}", "vllm:num_requests_running{} NaN"]
        {
            assert_eq!(parse(noise, 0), Err(MetricsError::NotVllm), "{noise}");
        }
    }
}
