//! The table of endpoint signals, from which Prometheus metrics, CLI columns and JSON are made.
//!
//! To add a signal: add the field to the BPF map and to the proto, fill it in the sampler, and add one line here.

use crate::v1::{Endpoint, EndpointLatencies, EngineLoad, Histogram, KernelLoad, Latency};

/// Who measures a signal. Names the object in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel programs.
    Kernel,
    /// The engine's own `/metrics`.
    Engine,
}

/// A value at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Integer(u64),
    /// A ratio from 0 to 1.
    Ratio(f64),
    /// A duration, nanoseconds.
    Nanoseconds(u64),
    /// Yes or no: 1 or 0.
    Flag(bool),
}

impl Value {
    /// The value as Prometheus has it.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Ratio(value) => value,
            Self::Nanoseconds(value) => value as f64 / 1e9,
            Self::Flag(value) => f64::from(u8::from(value)),
        }
    }
}

/// Type of a Prometheus metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only increases, except when the agent restarts.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A Prometheus metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Full name, with unit and `_total`.
    pub name: &'static str,
    /// Type.
    pub kind: MetricKind,
    /// Unit, which is also in the name.
    pub unit: Option<&'static str>,
    /// Help text.
    pub help: &'static str,
}

/// When the CLI shows a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// In every table.
    Table,
    /// Only with `-o wide`.
    Wide,
}

/// A column of `forebay pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub header: &'static str,
    /// When it is shown.
    pub width: Width,
}

/// A number per endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// Who measures it.
    pub source: Source,
    /// Name in JSON, in the object of its source.
    pub json: &'static str,
    /// `None` if it is not exported to Prometheus.
    pub metric: Option<Metric>,
    /// `None` if the CLI has no column.
    pub column: Option<Column>,
    /// Reads the value. `None` if it was not measured.
    pub value: fn(&Endpoint) -> Option<Value>,
}

/// Reads one value of a distribution, in nanoseconds.
pub type ReadLatency = fn(&Latency) -> u64;

/// A latency distribution per endpoint, over about the last minute. Measured by the kernel programs.
#[derive(Clone, Copy, Debug)]
pub struct LatencySignal {
    /// Name in JSON, in the object `kernel`.
    pub json: &'static str,
    /// Prefix of the Prometheus names: `PREFIX_seconds{quantile}`, `PREFIX_window_sum_seconds`, `PREFIX_window_count`.
    pub metric: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Columns of the CLI, with the value that each shows, in nanoseconds.
    pub columns: &'static [(Column, ReadLatency)],
    /// Reads the summary. `None` if it was not measured.
    pub value: fn(&Endpoint) -> Option<Latency>,
    /// Reads the distribution. `None` if the agent does not send it.
    pub histogram: fn(&EndpointLatencies) -> Option<&Histogram>,
}

const fn counter(name: &'static str, help: &'static str) -> Option<Metric> {
    Some(Metric { name, kind: MetricKind::Counter, unit: None, help })
}

const fn gauge(name: &'static str, help: &'static str) -> Option<Metric> {
    Some(Metric { name, kind: MetricKind::Gauge, unit: None, help })
}

const fn with_unit(metric: Option<Metric>, unit: &'static str) -> Option<Metric> {
    match metric {
        Some(metric) => Some(Metric { unit: Some(unit), ..metric }),
        None => None,
    }
}

const fn table(header: &'static str) -> Option<Column> {
    Some(Column { header, width: Width::Table })
}

const fn wide(header: &'static str) -> Option<Column> {
    Some(Column { header, width: Width::Wide })
}

/// A signal of the kernel from a field of [`KernelLoad`].
macro_rules! kernel {
    ($json:literal, $field:ident, $metric:expr, $column:expr) => {
        Signal {
            source: Source::Kernel,
            json: $json,
            metric: $metric,
            column: $column,
            value: |endpoint| endpoint.kernel.as_ref().map(|load: &KernelLoad| Value::Integer(load.$field)),
        }
    };
}

/// A signal of the engine from an expression over [`EngineLoad`].
macro_rules! engine {
    ($json:literal, |$load:ident| $value:expr, $metric:expr, $column:expr) => {
        Signal {
            source: Source::Engine,
            json: $json,
            metric: $metric,
            column: $column,
            value: |endpoint| endpoint.engine.as_ref().and_then(|$load: &EngineLoad| $value),
        }
    };
}

/// A signal of the kernel from an expression over [`KernelLoad`] that may be unknown.
macro_rules! known_to_kernel {
    ($json:literal, |$load:ident| $value:expr, $metric:expr, $column:expr) => {
        Signal {
            source: Source::Kernel,
            json: $json,
            metric: $metric,
            column: $column,
            value: |endpoint| endpoint.kernel.as_ref().and_then(|$load: &KernelLoad| $value),
        }
    };
}

fn integer(value: impl Into<u64>) -> Option<Value> {
    Some(Value::Integer(value.into()))
}

/// Time from an event to the measurement.
fn since(load: &KernelLoad, boottime_ns: Option<u64>) -> Option<Value> {
    Some(Value::Nanoseconds(load.measured_boottime_ns.saturating_sub(boottime_ns?)))
}

/// All signals, in the order of the CLI's columns.
#[rustfmt::skip]
pub const SIGNALS: &[Signal] = &[
    kernel!("inFlight", in_flight, gauge("forebay_requests_in_flight", "POST requests in flight."), table("IN-FLIGHT")),
    kernel!("waitingRequestBytes", waiting_request_bytes, with_unit(gauge("forebay_waiting_request_bytes", "Bytes received for POST requests without a response body byte yet."), "bytes"), wide("WAITING-BYTES")),
    known_to_kernel!("oldestRequestSeconds", |load| since(load, load.oldest_request_boottime_ns), with_unit(gauge("forebay_oldest_request_seconds", "Age of the oldest POST request in flight."), "seconds"), wide("OLDEST")),
    known_to_kernel!("oldestRequestHasResponse", |load| load.oldest_request_has_response.map(Value::Flag), None, None),
    known_to_kernel!("requestsWithResponse", |load| load.requests_with_response.and_then(integer), gauge("forebay_requests_with_response", "POST requests in flight for which content of the response was sent."), None),
    known_to_kernel!("waiting", |load| integer(load.in_flight.saturating_sub(load.requests_with_response?)), None, wide("WAITING")),
    known_to_kernel!("silentSeconds", |load| since(load, load.last_content_boottime_ns), with_unit(gauge("forebay_silent_seconds", "Time since content of a response was last sent, on any connection."), "seconds"), wide("SILENT")),
    kernel!("started", started, counter("forebay_requests_started_total", "POST requests started."), table("STARTED")),
    kernel!("finished", finished, counter("forebay_requests_finished_total", "POST requests whose response is complete."), table("FINISHED")),
    kernel!("aborted", aborted, counter("forebay_requests_aborted_total", "POST requests that ended before their response did."), table("ABORTED")),
    kernel!("otherRequests", other_requests, counter("forebay_other_requests_total", "Requests with another method than POST."), None),
    kernel!("responses2xx", responses_2xx, counter("forebay_responses_2xx_total", "Responses to POST with status 2xx."), None),
    kernel!("responses4xx", responses_4xx, counter("forebay_responses_4xx_total", "Responses to POST with status 4xx."), None),
    kernel!("responses5xx", responses_5xx, counter("forebay_responses_5xx_total", "Responses to POST with status 5xx."), None),
    kernel!("bytesIn", bytes_in, with_unit(counter("forebay_received_bytes_total", "TCP payload received by the pod's port."), "bytes"), None),
    kernel!("bytesOut", bytes_out, with_unit(counter("forebay_sent_bytes_total", "TCP payload sent from the pod's port."), "bytes"), None),
    kernel!("chunks", chunks, counter("forebay_response_chunks_total", "Response chunks with data."), None),
    kernel!("opaqueConnections", opaque_connections, None, None),
    engine!("running", |load| integer(load.running), gauge("forebay_engine_requests_running", "vllm:num_requests_running at the last scrape."), table("RUNNING")),
    engine!("queue", |load| integer(load.waiting), gauge("forebay_engine_requests_waiting", "vllm:num_requests_waiting at the last scrape."), table("QUEUE")),
    engine!("kvCacheUsage", |load| load.kv_cache_usage.map(Value::Ratio), with_unit(gauge("forebay_engine_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc at the last scrape, 0 to 1."), "ratio"), table("KV")),
    engine!("promptTokens", |load| integer(load.prompt_tokens), None, None),
    engine!("generationTokens", |load| integer(load.generation_tokens), None, None),
    engine!("prefixCacheQueries", |load| integer(load.prefix_cache_queries), None, None),
    engine!("prefixCacheHits", |load| integer(load.prefix_cache_hits), None, None),
    engine!("preemptions", |load| integer(load.preemptions), None, None),
    engine!("steps", |load| load.steps.and_then(integer), counter("forebay_engine_steps_total", "Steps of the engine: vllm:iteration_tokens_total_count at the last scrape."), None),
    engine!("sleeping", |load| load.sleeping.map(Value::Flag), None, None),
    engine!("requestsSucceeded", |load| integer(load.requests_succeeded), None, None),
    engine!("blockSizeTokens", |load| load.block_size_tokens.and_then(integer), None, None),
    engine!("numGpuBlocks", |load| load.num_gpu_blocks.and_then(integer), None, None),
    engine!("modelsOmitted", |load| integer(load.models_omitted), gauge("forebay_engine_models_omitted", "Served models that are not reported, because the list of the engine exceeds 1,000 models or 32 KiB."), None),
];

/// All latency distributions.
pub const LATENCIES: &[LatencySignal] = &[
    LatencySignal {
        json: "ttft",
        metric: "forebay_ttft",
        help: "First request byte to first content byte",
        columns: &[
            (Column { header: "TTFT-P50", width: Width::Table }, |latency| latency.p50_ns),
            (Column { header: "TTFT-P99", width: Width::Table }, |latency| latency.p99_ns),
        ],
        value: |endpoint| endpoint.kernel.as_ref()?.ttft,
        histogram: |latencies| latencies.ttft.as_ref(),
    },
    LatencySignal {
        json: "itl",
        metric: "forebay_itl",
        help: "Between two response chunks of one request",
        columns: &[(Column { header: "ITL-P50", width: Width::Table }, |latency| latency.p50_ns)],
        value: |endpoint| endpoint.kernel.as_ref()?.itl,
        histogram: |latencies| latencies.itl.as_ref(),
    },
    LatencySignal {
        json: "duration",
        metric: "forebay_request_duration",
        help: "First request byte to last response byte",
        columns: &[],
        value: |endpoint| endpoint.kernel.as_ref()?.duration,
        histogram: |latencies| latencies.duration.as_ref(),
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn metric_names_follow_prometheus_conventions() {
        for metric in SIGNALS.iter().filter_map(|signal| signal.metric) {
            let base = metric.name.strip_suffix("_total");
            assert_eq!(base.is_some(), metric.kind == MetricKind::Counter, "{}", metric.name);
            if let Some(unit) = metric.unit {
                assert!(base.unwrap_or(metric.name).ends_with(unit), "{}", metric.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        for signal in SIGNALS {
            assert!(seen.insert((signal.source == Source::Kernel, signal.json)), "{}", signal.json);
        }
        let names: Vec<_> =
            SIGNALS.iter().filter_map(|signal| signal.metric).map(|metric| metric.name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn unknown_values_are_absent() {
        let endpoint = Endpoint::default();
        assert!(SIGNALS.iter().all(|signal| (signal.value)(&endpoint).is_none()));
        assert!(LATENCIES.iter().all(|latency| (latency.value)(&endpoint).is_none()));
    }
}
