//! The board as Prometheus text (exposition format 0.0.4). Labels are pods and GPUs
//! of this node, so their number is bounded by it.

use std::fmt::Write as _;

use super::Board;
use crate::kernel::Counted;
use forebay_telemetry::v1::{Endpoint, Gpu, KernelLoad, Latency};

pub(super) fn render(board: &Board) -> String {
    let (snapshot, _) = board.snapshot();
    let mut text = String::with_capacity(16 * 1024);
    let node = snapshot.node.unwrap_or_default();
    family(&mut text, "forebay_agent_info", "gauge", "The agent's version.");
    sample(&mut text, "forebay_agent_info", &[("version", &node.agent_version), ("node", &node.name)], 1.0);
    family(&mut text, "forebay_kernel_up", "gauge", "1 when requests are counted in the kernel.");
    sample(&mut text, "forebay_kernel_up", &[], if node.kernel_off.is_none() { 1.0 } else { 0.0 });
    family(&mut text, "forebay_gpu_driver_up", "gauge", "1 when NVML answers.");
    sample(&mut text, "forebay_gpu_driver_up", &[], if node.gpu_off.is_none() { 1.0 } else { 0.0 });
    if let Some(counted) = board.counted() {
        programs(&mut text, &counted);
    }
    kernel(&mut text, &snapshot.endpoints);
    engine(&mut text, &snapshot.endpoints);
    gpus(&mut text, &snapshot.gpus);
    text
}

/// What the kernel programs could not do: all of these stay 0 where all is well.
fn programs(text: &mut String, counted: &Counted) {
    let families = [
        ("segments", "Segments looked at.", counted.segments),
        ("connections_full", "Connections not followed: the map was full.", counted.connections_full),
        ("events_dropped", "Events not told: the ring was full. No count is lost.", counted.events_dropped),
        ("on_listener", "Requests not followed: they came with the handshake.", counted.on_listener),
        ("no_slot", "Segments to a watched port of an unknown cgroup.", counted.no_slot),
        ("lost_framing", "Times that framing was lost on a connection.", counted.lost_framing),
    ];
    for (name, help, value) in families {
        let name = format!("forebay_kernel_{name}_total");
        family(text, &name, "counter", help);
        sample(text, &name, &[], value as f64);
    }
}

fn kernel(text: &mut String, endpoints: &[Endpoint]) {
    type Value = fn(&KernelLoad) -> u64;
    const FAMILIES: [(&str, &str, &str, Value); 11] = [
        ("forebay_requests_in_flight", "gauge", "POST requests now in flight.", |k| k.in_flight),
        ("forebay_requests_started_total", "counter", "POST requests that began.", |k| k.started),
        ("forebay_requests_finished_total", "counter", "POST requests whose response is complete.", |k| {
            k.finished
        }),
        ("forebay_requests_aborted_total", "counter", "POST requests cut off by either side.", |k| k.aborted),
        ("forebay_other_requests_total", "counter", "Requests that are no POST.", |k| k.other_requests),
        ("forebay_responses_2xx_total", "counter", "Responses to POST with status 2xx.", |k| k.responses_2xx),
        ("forebay_responses_4xx_total", "counter", "Responses to POST with status 4xx.", |k| k.responses_4xx),
        ("forebay_responses_5xx_total", "counter", "Responses to POST with status 5xx.", |k| k.responses_5xx),
        ("forebay_received_bytes_total", "counter", "TCP payload to the pod's port.", |k| k.bytes_in),
        ("forebay_sent_bytes_total", "counter", "TCP payload from the pod's port.", |k| k.bytes_out),
        ("forebay_response_chunks_total", "counter", "Response chunks with data.", |k| k.chunks),
    ];
    for (name, kind, help, value) in FAMILIES {
        family(text, name, kind, help);
        for (endpoint, load) in endpoints.iter().filter_map(|it| Some((it, it.kernel.as_ref()?))) {
            labelled(text, name, endpoint, &[], value(load) as f64);
        }
    }
    type Distribution = fn(&KernelLoad) -> Option<&Latency>;
    const DISTRIBUTIONS: [(&str, &str, Distribution); 3] = [
        ("forebay_ttft_seconds", "Request's first byte to first content, last minute.", |k| k.ttft.as_ref()),
        ("forebay_itl_seconds", "Between response chunks, last minute.", |k| k.itl.as_ref()),
        ("forebay_request_duration_seconds", "Request's first byte to response's last, last minute.", |k| {
            k.duration.as_ref()
        }),
    ];
    for (name, help, latency) in DISTRIBUTIONS {
        family(text, name, "summary", help);
        for (endpoint, load) in endpoints.iter().filter_map(|it| Some((it, it.kernel.as_ref()?))) {
            let Some(latency) = latency(load) else { continue };
            for (quantile, value_ns) in
                [("0.5", latency.p50_ns), ("0.95", latency.p95_ns), ("0.99", latency.p99_ns)]
            {
                if latency.count != 0 {
                    labelled(text, name, endpoint, &[("quantile", quantile)], value_ns as f64 / 1e9);
                }
            }
            labelled(text, &format!("{name}_sum"), endpoint, &[], latency.sum_ns as f64 / 1e9);
            labelled(text, &format!("{name}_count"), endpoint, &[], latency.count as f64);
        }
    }
}

fn engine(text: &mut String, endpoints: &[Endpoint]) {
    let engines = || endpoints.iter().filter_map(|it| Some((it, it.engine.as_ref()?)));
    family(text, "forebay_engine_up", "gauge", "1 when the pod's own /metrics was read.");
    for endpoint in endpoints {
        labelled(text, "forebay_engine_up", endpoint, &[], if endpoint.engine.is_some() { 1.0 } else { 0.0 });
    }
    family(text, "forebay_engine_running", "gauge", "vllm:num_requests_running as last read.");
    for (endpoint, load) in engines() {
        labelled(text, "forebay_engine_running", endpoint, &[], f64::from(load.running));
    }
    family(text, "forebay_engine_waiting", "gauge", "vllm:num_requests_waiting as last read.");
    for (endpoint, load) in engines() {
        labelled(text, "forebay_engine_waiting", endpoint, &[], f64::from(load.waiting));
    }
    family(text, "forebay_engine_kv_cache_usage", "gauge", "vllm:kv_cache_usage_perc as last read, 0 to 1.");
    for (endpoint, load) in engines() {
        if let Some(usage) = load.kv_cache_usage {
            labelled(text, "forebay_engine_kv_cache_usage", endpoint, &[], usage);
        }
    }
}

fn gpus(text: &mut String, gpus: &[Gpu]) {
    type Value = fn(&Gpu) -> Option<f64>;
    const FAMILIES: [(&str, &str, Value); 8] = [
        ("forebay_gpu_health", "0 unknown, 1 ok, 2 degraded, 3 lost.", |g| Some(f64::from(g.health))),
        ("forebay_gpu_utilization_ratio", "Share of time a kernel ran.", |g| {
            g.utilization_percent.map(|percent| f64::from(percent) / 100.0)
        }),
        ("forebay_gpu_memory_used_bytes", "Framebuffer in use.", |g| g.memory_used_bytes.map(|it| it as f64)),
        ("forebay_gpu_memory_total_bytes", "Framebuffer.", |g| g.memory_total_bytes.map(|it| it as f64)),
        ("forebay_gpu_temperature_celsius", "GPU temperature.", |g| g.temperature_celsius.map(f64::from)),
        ("forebay_gpu_power_watts", "Power draw.", |g| g.power_mw.map(|it| it as f64 / 1000.0)),
        ("forebay_gpu_sm_clock_hertz", "SM clock.", |g| g.sm_clock_mhz.map(|it| f64::from(it) * 1e6)),
        ("forebay_gpu_xid_errors", "XID errors since the agent started.", |g| Some(g.xid_errors as f64)),
    ];
    for (name, help, value) in FAMILIES {
        family(text, name, "gauge", help);
        for gpu in gpus {
            if let Some(value) = value(gpu) {
                let index = gpu.index.to_string();
                sample(text, name, &[("gpu", &index), ("uuid", &gpu.uuid), ("name", &gpu.name)], value);
            }
        }
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn labelled(text: &mut String, name: &str, endpoint: &Endpoint, more: &[(&str, &str)], value: f64) {
    let Some(key) = &endpoint.key else { return };
    let port = key.port.to_string();
    let mut labels =
        vec![("namespace", key.namespace.as_str()), ("pod", key.pod.as_str()), ("port", port.as_str())];
    labels.extend_from_slice(more);
    sample(text, name, &labels, value);
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    text.push_str(name);
    for (index, (label, text_value)) in labels.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        let _ = write!(text, "{label}=\"");
        for character in text_value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}
