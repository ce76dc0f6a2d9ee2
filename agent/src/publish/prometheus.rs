//! The node's metrics (OpenMetrics text). Labels are pods and GPUs of this node, so their number is bounded.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::Publisher;
use crate::kernel::DropCounters;
use forebay_telemetry::{
    signals::{LATENCIES, LatencySignal, Metric, MetricKind, SIGNALS, Value},
    v1::{Endpoint, Gpu, Node},
};

/// A registry that reads the publisher's state at every scrape.
pub(super) fn registry(publisher: Arc<Publisher>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(NodeMetrics { publisher }));
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
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (snapshot, _) = self.publisher.snapshot();
        encode_node(&mut encoder, &snapshot.node.unwrap_or_default())?;
        if let Some(counters) = self.publisher.drop_counters() {
            encode_drop_counters(&mut encoder, &counters)?;
        }
        encode_signals(&mut encoder, &snapshot.endpoints)?;
        for latency in LATENCIES {
            encode_latency(&mut encoder, latency, &snapshot.endpoints)?;
        }
        encode_engine_up(&mut encoder, &snapshot.endpoints)?;
        encode_gpus(&mut encoder, &snapshot.gpus)
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
        (MetricKind::Counter, Value::Ratio(value)) => {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        }
        (MetricKind::Gauge, Value::Integer(value)) => encoder.encode_gauge(&value),
        (MetricKind::Gauge, Value::Ratio(value)) => encoder.encode_gauge(&value),
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

fn encode_gpus(encoder: &mut DescriptorEncoder<'_>, gpus: &[Gpu]) -> fmt::Result {
    type Read = fn(&Gpu) -> Option<f64>;
    let gauges: [(&str, Option<&str>, &str, Read); 7] = [
        ("forebay_gpu_health", None, "0 unknown, 1 ok, 2 degraded, 3 lost.", |gpu| Some(gpu.health.into())),
        ("forebay_gpu_utilization_ratio", Some("ratio"), "Share of time in which a GPU kernel ran.", |gpu| {
            Some(f64::from(gpu.utilization_percent?) / 100.0)
        }),
        ("forebay_gpu_memory_used_bytes", Some("bytes"), "Framebuffer in use.", |gpu| {
            gpu.memory_used_bytes.map(|bytes| bytes as f64)
        }),
        ("forebay_gpu_memory_total_bytes", Some("bytes"), "Framebuffer size.", |gpu| {
            gpu.memory_total_bytes.map(|bytes| bytes as f64)
        }),
        ("forebay_gpu_temperature_celsius", Some("celsius"), "GPU temperature.", |gpu| {
            gpu.temperature_celsius.map(f64::from)
        }),
        ("forebay_gpu_power_watts", Some("watts"), "Power draw.", |gpu| Some(gpu.power_mw? as f64 / 1000.0)),
        ("forebay_gpu_sm_clock_hertz", Some("hertz"), "SM clock.", |gpu| {
            Some(f64::from(gpu.sm_clock_mhz?) * 1e6)
        }),
    ];
    for (name, unit, help, read) in gauges {
        family(encoder, &gauge(name, unit, help), |encoder| {
            each_gpu(gpus, |gpu, labels| match read(gpu) {
                Some(value) => encoder.encode_family(labels)?.encode_gauge(&value),
                None => Ok(()),
            })
        })?;
    }
    let xid_errors = counter("forebay_gpu_xid_errors_total", "XID errors since the agent started.");
    family(encoder, &xid_errors, |encoder| {
        each_gpu(gpus, |gpu, labels| {
            sample(&mut encoder.encode_family(labels)?, xid_errors.kind, Value::Integer(gpu.xid_errors))
        })
    })
}

fn each_gpu(gpus: &[Gpu], mut encode: impl FnMut(&Gpu, &Labels<'_>) -> fmt::Result) -> fmt::Result {
    for gpu in gpus {
        let index = gpu.index.to_string();
        encode(gpu, &vec![("gpu", &index), ("uuid", &gpu.uuid), ("name", &gpu.name)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use super::*;
    use crate::publish::LoadReport;
    use forebay_telemetry::v1::{EndpointKey, KernelLoad, Latency};

    #[test]
    fn metrics_have_names_labels_and_units() {
        let publisher = Arc::new(Publisher::new(Node { name: "n".into(), ..Node::default() }));
        let address: SocketAddr = "10.0.0.1:8000".parse().unwrap();
        let key =
            EndpointKey { namespace: "a".into(), pod: "p\"q".into(), port: 8000, ..EndpointKey::default() };
        publisher.set_endpoints(BTreeMap::from([(address, key)]));
        let ttft =
            Some(Latency { count: 2, sum_ns: 3_000_000_000, p50_ns: 1_000_000_000, ..Latency::default() });
        let load =
            KernelLoad { started: 7, bytes_in: 9, waiting_request_bytes: 5, ttft, ..KernelLoad::default() };
        publisher.set_kernel(address, "", LoadReport::Measured(load));
        publisher.set_drop_counters(DropCounters { no_slot: 4, ..DropCounters::default() });
        let gpu = Gpu { uuid: "GPU-0".into(), xid_errors: 2, power_mw: Some(1500), ..Gpu::default() };
        publisher.set_gpus(vec![gpu], &BTreeMap::new(), None);

        let text = text(&registry(publisher)).unwrap();
        let labels = r#"{namespace="a",pod="p\"q",port="8000"}"#;
        for line in [
            r#"forebay_agent_info{version="",node="n"} 1"#,
            "forebay_kernel_up 1",
            "forebay_kernel_unknown_cgroup_segments_total 4",
            "# TYPE forebay_requests_started counter",
            &format!("forebay_requests_started_total{labels} 7"),
            "# UNIT forebay_received_bytes bytes",
            &format!("forebay_received_bytes_total{labels} 9"),
            "# TYPE forebay_waiting_request_bytes gauge",
            &format!("forebay_waiting_request_bytes{labels} 5"),
            r#"forebay_ttft_seconds{namespace="a",pod="p\"q",port="8000",quantile="0.5"} 1.0"#,
            &format!("forebay_ttft_window_sum_seconds{labels} 3.0"),
            &format!("forebay_ttft_window_count{labels} 2"),
            &format!("forebay_engine_up{labels} 0"),
            r#"forebay_gpu_power_watts{gpu="0",uuid="GPU-0",name=""} 1.5"#,
            r#"forebay_gpu_xid_errors_total{gpu="0",uuid="GPU-0",name=""} 2"#,
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(!text.contains("forebay_engine_requests_running{"), "not measured");
        assert!(text.ends_with("# EOF\n"));
    }
}
