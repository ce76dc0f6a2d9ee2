//! The node's metrics (OpenMetrics text). Labels are pods and GPUs of this node, so their number is bounded.

mod dcgm;
mod gen_ai;
mod gpus;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{Publisher, RequestFeed};
use crate::kernel::DropCounters;
use forebay_telemetry::{
    signals::{LATENCIES, LatencySignal, Metric, MetricKind, SIGNALS, Value},
    v1::{Endpoint, Node},
};

/// Which optional metrics are exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsOptions {
    /// The GPUs also under the names of dcgm-exporter.
    pub dcgm: bool,
}

/// A registry that reads the publisher's state at every scrape.
pub(super) fn registry(publisher: Arc<Publisher>, options: MetricsOptions) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(NodeMetrics { publisher, options }));
    registry
}

/// Encodes all metrics.
pub(super) fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, registry)?;
    Ok(text)
}

#[derive(Debug)]
struct NodeMetrics {
    publisher: Arc<Publisher>,
    options: MetricsOptions,
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (snapshot, _) = self.publisher.snapshot();
        let unknown = Node::default();
        encode_node(&mut encoder, snapshot.node.as_ref().unwrap_or(&unknown))?;
        encode_request_streams(&mut encoder, self.publisher.requests())?;
        if let Some(counters) = self.publisher.drop_counters() {
            encode_drop_counters(&mut encoder, &counters)?;
        }
        encode_signals(&mut encoder, &snapshot.endpoints)?;
        for latency in LATENCIES {
            encode_latency(&mut encoder, latency, &snapshot.endpoints)?;
        }
        encode_engine_up(&mut encoder, &snapshot.endpoints)?;
        encode_liveness(&mut encoder, &snapshot.endpoints)?;
        gen_ai::encode(&mut encoder, &snapshot.endpoints, &self.publisher.latency_histograms())?;
        gpus::encode(&mut encoder, &snapshot.gpus)?;
        if self.options.dcgm {
            dcgm::encode(&mut encoder, &snapshot)?;
        }
        Ok(())
    }
}

/// Encodes a metric family. The encoder composes the name from base name, unit and `_total`.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    samples: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    let mut name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    if let Some(unit) = metric.unit {
        name = name.strip_suffix(unit).and_then(|name| name.strip_suffix('_')).unwrap_or(name);
    }
    let unit = metric.unit.map(|unit| Unit::Other(unit.to_owned()));
    let kind = match metric.kind {
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Gauge => MetricType::Gauge,
    };
    samples(&mut encoder.encode_descriptor(name, metric.help, unit.as_ref(), kind)?)
}

fn gauge(name: &'static str, unit: Option<&'static str>, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, unit, help }
}

fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, unit: None, help }
}

fn sample(encoder: &mut MetricEncoder<'_>, kind: MetricKind, value: Value) -> fmt::Result {
    match (kind, value) {
        (MetricKind::Counter, Value::Integer(value)) => {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        }
        (MetricKind::Counter, value) => encoder.encode_counter::<NoLabelSet, _, u64>(&value.as_f64(), None),
        (MetricKind::Gauge, Value::Integer(value)) => encoder.encode_gauge(&value),
        (MetricKind::Gauge, value) => encoder.encode_gauge(&value.as_f64()),
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Labels of an endpoint; its port as text.
fn with_labels<'a>(
    endpoints: &'a [Endpoint],
    ports: &'a [String],
) -> impl Iterator<Item = (&'a Endpoint, Labels<'a>)> {
    endpoints.iter().zip(ports).filter_map(|(endpoint, port)| {
        let key = endpoint.key.as_ref()?;
        Some((
            endpoint,
            vec![("namespace", key.namespace.as_str()), ("pod", key.pod.as_str()), ("port", port)],
        ))
    })
}

fn ports(endpoints: &[Endpoint]) -> Vec<String> {
    let port =
        |endpoint: &Endpoint| endpoint.key.as_ref().map_or_else(String::new, |key| key.port.to_string());
    endpoints.iter().map(port).collect()
}

fn encode_node(encoder: &mut DescriptorEncoder<'_>, node: &Node) -> fmt::Result {
    let labels = [("version", node.agent_version.as_str()), ("node", node.name.as_str())];
    encoder
        .encode_descriptor("forebay_agent", "Version of the agent.", None, MetricType::Info)?
        .encode_info(&labels)?;
    for (name, help, off) in [
        ("forebay_kernel_up", "1 if requests are counted in the kernel.", &node.kernel_off),
        ("forebay_gpu_driver_up", "1 if NVML works.", &node.gpu_off),
    ] {
        family(encoder, &gauge(name, None, help), |encoder| {
            sample(encoder, MetricKind::Gauge, Value::Integer(off.is_none().into()))
        })?;
    }
    Ok(())
}

fn encode_request_streams(encoder: &mut DescriptorEncoder<'_>, feed: &RequestFeed) -> fmt::Result {
    let metrics = [
        (
            gauge("forebay_request_streams", None, "Readers of ended requests, such as `forebay requests`."),
            feed.readers(),
        ),
        (
            counter(
                "forebay_request_stream_over_rate_total",
                "Ended requests over the limit of their reader.",
            ),
            feed.over_rate_total(),
        ),
        (
            counter(
                "forebay_request_stream_unread_total",
                "Ended requests that their reader was too slow for.",
            ),
            feed.unread_total(),
        ),
    ];
    for (metric, value) in metrics {
        family(encoder, &metric, |encoder| sample(encoder, metric.kind, Value::Integer(value)))?;
    }
    Ok(())
}

/// All but `segments` stay 0 in normal operation.
fn encode_drop_counters(encoder: &mut DescriptorEncoder<'_>, counters: &DropCounters) -> fmt::Result {
    let DropCounters { segments, connections_full, events_dropped, on_listener, no_slot, lost_framing } =
        *counters;
    for (name, help, value) in [
        ("forebay_kernel_segments_total", "TCP segments processed.", segments),
        (
            "forebay_kernel_connections_untracked_total",
            "Connections not followed because the map was full.",
            connections_full,
        ),
        (
            "forebay_kernel_events_dropped_total",
            "Events dropped because the ring was full. No count is lost.",
            events_dropped,
        ),
        (
            "forebay_kernel_handshake_requests_untracked_total",
            "Requests not followed because they arrived with the handshake.",
            on_listener,
        ),
        (
            "forebay_kernel_unknown_cgroup_segments_total",
            "Segments to a watched port of a cgroup that is not watched.",
            no_slot,
        ),
        (
            "forebay_kernel_lost_framing_total",
            "Times that HTTP framing was lost on a connection.",
            lost_framing,
        ),
    ] {
        let metric = counter(name, help);
        family(encoder, &metric, |encoder| sample(encoder, metric.kind, Value::Integer(value)))?;
    }
    Ok(())
}

fn encode_signals(encoder: &mut DescriptorEncoder<'_>, endpoints: &[Endpoint]) -> fmt::Result {
    let ports = ports(endpoints);
    for (signal, metric) in SIGNALS.iter().filter_map(|signal| Some((signal, signal.metric?))) {
        family(encoder, &metric, |encoder| {
            for (endpoint, labels) in with_labels(endpoints, &ports) {
                if let Some(value) = (signal.value)(endpoint) {
                    sample(&mut encoder.encode_family(&labels)?, metric.kind, value)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Gauges over a sliding window. A Prometheus summary would need cumulative sum and count.
fn encode_latency(
    encoder: &mut DescriptorEncoder<'_>,
    signal: &LatencySignal,
    endpoints: &[Endpoint],
) -> fmt::Result {
    let ports = ports(endpoints);
    let measured = || {
        with_labels(endpoints, &ports)
            .filter_map(|(endpoint, labels)| Some((labels, (signal.value)(endpoint)?)))
    };
    let seconds = |value_ns: u64| value_ns as f64 / 1e9;
    let unit = Unit::Other("seconds".into());

    let help = format!("{}, quantiles of the last minute.", signal.help);
    let mut metric = encoder.encode_descriptor(signal.metric, &help, Some(&unit), MetricType::Gauge)?;
    for (labels, latency) in measured().filter(|(_, latency)| latency.count != 0) {
        for (quantile, value_ns) in
            [("0.5", latency.p50_ns), ("0.95", latency.p95_ns), ("0.99", latency.p99_ns)]
        {
            let labels = [labels.as_slice(), &[("quantile", quantile)]].concat();
            metric.encode_family(&labels)?.encode_gauge(&seconds(value_ns))?;
        }
    }
    let (name, help) =
        (format!("{}_window_sum", signal.metric), format!("{}, sum of the last minute.", signal.help));
    let mut metric = encoder.encode_descriptor(&name, &help, Some(&unit), MetricType::Gauge)?;
    for (labels, latency) in measured() {
        metric.encode_family(&labels)?.encode_gauge(&seconds(latency.sum_ns))?;
    }
    let (name, help) =
        (format!("{}_window_count", signal.metric), format!("{}, count of the last minute.", signal.help));
    let mut metric = encoder.encode_descriptor(&name, &help, None, MetricType::Gauge)?;
    for (labels, latency) in measured() {
        metric.encode_family(&labels)?.encode_gauge(&latency.count)?;
    }
    Ok(())
}

fn encode_engine_up(encoder: &mut DescriptorEncoder<'_>, endpoints: &[Endpoint]) -> fmt::Result {
    let ports = ports(endpoints);
    family(
        encoder,
        &gauge("forebay_engine_up", None, "1 if the last scrape of the engine worked."),
        |encoder| {
            for (endpoint, labels) in with_labels(endpoints, &ports) {
                let up = Value::Integer(endpoint.engine.is_some().into());
                sample(&mut encoder.encode_family(&labels)?, MetricKind::Gauge, up)?;
            }
            Ok(())
        },
    )
}

/// The series of the current state only.
fn encode_liveness(encoder: &mut DescriptorEncoder<'_>, endpoints: &[Endpoint]) -> fmt::Result {
    let ports = ports(endpoints);
    let help = "1 for the state of the engine: alive, suspect or stalled, and the reason.";
    family(encoder, &gauge("forebay_liveness", None, help), |encoder| {
        for (endpoint, labels) in with_labels(endpoints, &ports) {
            let Some(liveness) = &endpoint.liveness else { continue };
            let Some(state) = liveness.state_name() else { continue };
            let reason = liveness.reason_name().unwrap_or_default();
            let labels = [labels.as_slice(), &[("state", state), ("reason", reason)]].concat();
            sample(&mut encoder.encode_family(&labels)?, MetricKind::Gauge, Value::Integer(1))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
