//! Tables for people. What is unknown is `-`, never 0.

use std::{fmt::Write as _, time::Duration};

use forebay_telemetry::v1::{Endpoint, Gpu, GpuHealth, Latency};

use crate::{
    Subject,
    view::{Agent, View},
};

pub(crate) fn render(subject: Subject, view: &View) -> String {
    let rows = match subject {
        Subject::Nodes => nodes(view),
        Subject::Pods => pods(view),
        Subject::Gpus => gpus(view),
    };
    align(&rows)
}

fn nodes(view: &View) -> Vec<Vec<String>> {
    let mut rows =
        vec![header(&["NODE", "AGENT", "VERSION", "ENDPOINTS", "IN-FLIGHT", "GPUS", "KERNEL", "NVML"])];
    for agent in &view.agents {
        let node = &agent.node;
        if !agent.has_answered() {
            let mut row = vec!["-".into(), agent.name.clone()];
            row.resize(8, "-".into());
            rows.push(row);
            continue;
        }
        let in_flight: Option<u64> = agent
            .endpoints
            .values()
            .map(|endpoint| endpoint.kernel.as_ref().map(|load| load.in_flight))
            .sum();
        rows.push(vec![
            node.name.clone(),
            agent.name.clone(),
            node.agent_version.clone(),
            agent.endpoints.len().to_string(),
            or_dash(in_flight),
            agent.gpus.len().to_string(),
            node.kernel_off
                .clone()
                .map_or_else(|| "on".into(), |reason| format!("off: {}", first_words(&reason))),
            node.gpu_off
                .clone()
                .map_or_else(|| "on".into(), |reason| format!("off: {}", first_words(&reason))),
        ]);
    }
    rows
}

fn pods(view: &View) -> Vec<Vec<String>> {
    let mut rows = vec![header(&[
        "NAMESPACE",
        "POD",
        "NODE",
        "ENDPOINT",
        "IN-FLIGHT",
        "STARTED",
        "FINISHED",
        "ABORTED",
        "RUNNING",
        "WAITING",
        "KV",
        "TTFT-P50",
        "TTFT-P99",
        "ITL-P50",
        "AGE",
        "ENGINE-AGE",
    ])];
    for agent in &view.agents {
        for ((namespace, pod, port), endpoint) in &agent.endpoints {
            rows.push(pod_row(agent, namespace, pod, *port, endpoint));
        }
    }
    rows
}

fn pod_row(agent: &Agent, namespace: &str, pod: &str, port: u32, endpoint: &Endpoint) -> Vec<String> {
    let kernel = endpoint.kernel.as_ref();
    let engine = endpoint.engine.as_ref();
    let ip = endpoint.key.as_ref().map_or("-", |key| key.ip.as_str());
    let ttft = kernel.and_then(|load| load.ttft.as_ref());
    let itl = kernel.and_then(|load| load.itl.as_ref());
    vec![
        namespace.into(),
        pod.into(),
        agent.node.name.clone(),
        format!("{ip}:{port}"),
        or_dash(kernel.map(|load| load.in_flight)),
        or_dash(kernel.map(|load| load.started)),
        or_dash(kernel.map(|load| load.finished)),
        or_dash(kernel.map(|load| load.aborted)),
        or_dash(engine.map(|load| load.running)),
        or_dash(engine.map(|load| load.waiting)),
        or_dash(engine.and_then(|load| load.kv_cache_usage).map(|usage| format!("{:.0}%", usage * 100.0))),
        latency(ttft, |latency| latency.p50_ns),
        latency(ttft, |latency| latency.p99_ns),
        latency(itl, |latency| latency.p50_ns),
        or_dash(agent.kernel_age(endpoint).map(short)),
        or_dash(agent.engine_age(endpoint).map(short)),
    ]
}

fn gpus(view: &View) -> Vec<Vec<String>> {
    let mut rows = vec![header(&[
        "NODE",
        "GPU",
        "NAME",
        "HEALTH",
        "UTIL",
        "MEMORY",
        "TEMP",
        "POWER",
        "SM-CLOCK",
        "THROTTLED",
        "XID",
        "PODS",
        "AGE",
    ])];
    for agent in &view.agents {
        for gpu in agent.gpus.values() {
            rows.push(gpu_row(agent, gpu));
        }
    }
    rows
}

fn gpu_row(agent: &Agent, gpu: &Gpu) -> Vec<String> {
    const GIB: f64 = (1_u64 << 30) as f64;
    let mut pods: Vec<&str> = agent
        .endpoints
        .values()
        .filter(|endpoint| endpoint.gpu_uuids.contains(&gpu.uuid))
        .filter_map(|endpoint| endpoint.key.as_ref().map(|key| key.pod.as_str()))
        .collect();
    pods.dedup();
    let health = match gpu.health() {
        GpuHealth::Unspecified => "-".to_owned(),
        GpuHealth::Ok => "ok".to_owned(),
        GpuHealth::Degraded => format!("degraded ({})", gpu.health_reason),
        GpuHealth::Lost => format!("LOST ({})", gpu.health_reason),
    };
    let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
    vec![
        agent.node.name.clone(),
        gpu.index.to_string(),
        gpu.name.clone(),
        health,
        or_dash(gpu.utilization_percent.map(|percent| format!("{percent}%"))),
        or_dash(memory.map(|(used, total)| format!("{:.1}/{:.1}GiB", used as f64 / GIB, total as f64 / GIB))),
        or_dash(gpu.temperature_celsius.map(|celsius| format!("{celsius}C"))),
        or_dash(gpu.power_mw.map(|milliwatts| format!("{}W", milliwatts / 1000))),
        or_dash(gpu.sm_clock_mhz.map(|mhz| format!("{mhz}MHz"))),
        if gpu.throttle_reasons.is_empty() { "-".into() } else { gpu.throttle_reasons.join(",") },
        or_dash(gpu.last_xid),
        if pods.is_empty() { "-".into() } else { pods.join(",") },
        or_dash(agent.gpu_age(gpu).map(short)),
    ]
}

pub(crate) fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn latency(latency: Option<&Latency>, value_ns: impl Fn(&Latency) -> u64) -> String {
    or_dash(
        latency
            .filter(|latency| latency.count != 0)
            .map(|latency| short(Duration::from_nanos(value_ns(latency)))),
    )
}

/// Three digits are enough.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1e-3 {
        format!("{:.0}us", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.0}ms", seconds * 1e3)
    } else {
        format!("{seconds:.1}s")
    }
}

/// The reason in a column's width; `-o json` has all of it.
fn first_words(reason: &str) -> String {
    const WIDTH: usize = 60;
    match reason.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &reason[..at]),
        None => reason.to_owned(),
    }
}

pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_they_end() {
        let rows = vec![header(&["A", "LONG"]), header(&["longer", "x"])];
        assert_eq!(align(&rows), "A        LONG\nlonger   x\n");
    }

    #[test]
    fn durations_are_short() {
        for (nanoseconds, text) in [(1_500, "2us"), (12_345_678, "12ms"), (2_500_000_000, "2.5s")] {
            assert_eq!(short(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let view = View::new(&["127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap().into()]);
        let row = pod_row(&view.agents[0], "ns", "pod", 8000, &Endpoint::default());
        assert_eq!(row[4..], vec!["-"; 12]);
        let row = gpu_row(&view.agents[0], &Gpu::default());
        assert_eq!(row[3..], vec!["-"; 10]);
    }
}
