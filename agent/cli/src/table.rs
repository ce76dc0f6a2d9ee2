//! Tables for people. Unknown values are `-`, never 0.

use std::{fmt::Write as _, time::Duration};

use forebay_telemetry::{
    signals::{Column, LATENCIES, SIGNALS, Value, Width},
    v1::{Endpoint, EndpointKey, Gpu, GpuHealth, Latency},
};

use crate::{
    Subject,
    view::{Agent, View},
};

/// `is_wide` adds the columns of `-o wide`.
pub(crate) fn render(subject: Subject, view: &View, is_wide: bool) -> String {
    let rows = match subject {
        Subject::Nodes => nodes(view),
        Subject::Pods => pods(view, is_wide),
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
        rows.push(vec![
            node.name.clone(),
            agent.name.clone(),
            node.agent_version.clone(),
            agent.replica.endpoints().len().to_string(),
            or_dash(agent.in_flight()),
            agent.replica.gpus().len().to_string(),
            node.kernel_off
                .clone()
                .map_or_else(|| "on".into(), |reason| format!("off: {}", shorten(&reason))),
            node.gpu_off.clone().map_or_else(|| "on".into(), |reason| format!("off: {}", shorten(&reason))),
        ]);
    }
    rows
}

fn pods(view: &View, is_wide: bool) -> Vec<Vec<String>> {
    let mut names = header(&["NAMESPACE", "POD", "NODE", "ENDPOINT"]);
    names.extend(columns(Width::Table).map(|(column, _)| column.header.to_owned()));
    names.extend(header(&["AGE", "ENGINE-AGE"]));
    if is_wide {
        names.extend(columns(Width::Wide).map(|(column, _)| column.header.to_owned()));
    }
    let mut rows = vec![names];
    for agent in &view.agents {
        rows.extend(agent.replica.endpoints().map(|endpoint| pod_row(agent, endpoint, is_wide)));
    }
    rows
}

fn pod_row(agent: &Agent, endpoint: &Endpoint, is_wide: bool) -> Vec<String> {
    let EndpointKey { namespace, pod, ip, port, .. } = endpoint.key.clone().unwrap_or_default();
    let mut row = vec![namespace, pod, agent.node.name.clone(), format!("{ip}:{port}")];
    row.extend(columns(Width::Table).map(|(_, cell)| cell(endpoint)));
    row.push(or_dash(agent.replica.kernel_age(endpoint).map(short)));
    row.push(or_dash(agent.replica.engine_age(endpoint).map(short)));
    if is_wide {
        row.extend(columns(Width::Wide).map(|(_, cell)| cell(endpoint)));
    }
    row
}

type Cell = Box<dyn Fn(&Endpoint) -> String>;

/// The columns of one width, from the table of signals.
fn columns(width: Width) -> impl Iterator<Item = (Column, Cell)> {
    let signals = SIGNALS.iter().filter_map(|signal| {
        let cell: Cell = Box::new(|endpoint| or_dash((signal.value)(endpoint).map(number)));
        Some((signal.column?, cell))
    });
    let latencies = LATENCIES.iter().flat_map(|signal| {
        signal.columns.iter().map(move |(column, value_ns)| {
            let cell: Cell = Box::new(move |endpoint| latency((signal.value)(endpoint), value_ns));
            (*column, cell)
        })
    });
    signals.chain(latencies).filter(move |(column, _)| column.width == width)
}

fn number(value: Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        Value::Ratio(ratio) => format!("{:.0}%", ratio * 100.0),
    }
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
        for gpu in agent.replica.gpus() {
            rows.push(gpu_row(agent, gpu));
        }
    }
    rows
}

fn gpu_row(agent: &Agent, gpu: &Gpu) -> Vec<String> {
    const GIB: f64 = (1_u64 << 30) as f64;
    let mut pods: Vec<&str> = agent
        .replica
        .endpoints()
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
        or_dash(agent.replica.gpu_age(gpu).map(short)),
    ]
}

pub(crate) fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn latency(latency: Option<Latency>, value_ns: impl Fn(&Latency) -> u64) -> String {
    let latency = latency.filter(|latency| latency.count != 0);
    or_dash(latency.map(|latency| short(Duration::from_nanos(value_ns(&latency)))))
}

/// Formats with at most three digits.
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

/// Shortens a reason to the width of a column. `-o json` has the full text.
fn shorten(reason: &str) -> String {
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
    fn aligns_columns_without_trailing_spaces() {
        let rows = vec![header(&["A", "LONG"]), header(&["longer", "x"])];
        assert_eq!(align(&rows), "A        LONG\nlonger   x\n");
    }

    #[test]
    fn shortens_durations() {
        for (nanoseconds, text) in [(1_500, "2us"), (12_345_678, "12ms"), (2_500_000_000, "2.5s")] {
            assert_eq!(short(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn unknown_values_are_dashes() {
        let view = View::new(&["127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap().into()]);
        let row = pod_row(&view.agents[0], &Endpoint::default(), false);
        assert_eq!(row[4..], vec!["-"; 12]);
        let row = pod_row(&view.agents[0], &Endpoint::default(), true);
        assert_eq!(row[4..], vec!["-"; 13]);
        let row = gpu_row(&view.agents[0], &Gpu::default());
        assert_eq!(row[3..], vec!["-"; 10]);
    }
}
