//! Tables for people. Unknown values are `-`, never 0.

use std::fmt::Write as _;

use forebay_telemetry::{
    signals::{Column, LATENCIES, SIGNALS, Width},
    v1::{Endpoint, EndpointKey, Gpu, GpuHealth, Liveness},
};

use crate::{
    Subject,
    format::{fit_start, gib, latency, number, or_dash, short},
    json,
    sort::by_field,
    view::{Agent, View},
};

/// Width of a reason. `-o json` has the full text.
const REASON_WIDTH: usize = 61;

/// `is_wide` adds the columns of `-o wide`. `sort`: a field of the JSON.
pub(crate) fn render(
    subject: Subject,
    view: &View,
    is_wide: bool,
    sort: Option<&str>,
) -> anyhow::Result<String> {
    Ok(align(&match subject {
        Subject::Nodes => nodes(&by_field(view.nodes().collect(), sort, |agent| json::node(agent))?),
        Subject::Pods => {
            pods(&by_field(view.pods().collect(), sort, |(agent, it)| json::pod(agent, it))?, is_wide)
        }
        Subject::Gpus => gpus(&by_field(view.gpus().collect(), sort, |(agent, it)| json::gpu(agent, it))?),
    }))
}

fn nodes(agents: &[&Agent]) -> Vec<Vec<String>> {
    let mut rows =
        vec![header(&["NODE", "AGENT", "VERSION", "ENDPOINTS", "IN-FLIGHT", "GPUS", "KERNEL", "NVML"])];
    for agent in agents {
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
                .map_or_else(|| "on".into(), |reason| format!("off: {}", fit_start(&reason, REASON_WIDTH))),
            node.gpu_off
                .clone()
                .map_or_else(|| "on".into(), |reason| format!("off: {}", fit_start(&reason, REASON_WIDTH))),
        ]);
    }
    rows
}

fn pods(pods: &[(&Agent, &Endpoint)], is_wide: bool) -> Vec<Vec<String>> {
    let mut names = header(&["NAMESPACE", "POD", "NODE", "ENDPOINT"]);
    names.extend(columns(Width::Table).map(|(column, _)| column.header.to_owned()));
    names.extend(header(&["AGE", "ENGINE-AGE", "ENGINE"]));
    if is_wide {
        names.extend(columns(Width::Wide).map(|(column, _)| column.header.to_owned()));
    }
    let mut rows = vec![names];
    rows.extend(pods.iter().map(|(agent, endpoint)| pod_row(agent, endpoint, is_wide)));
    rows
}

fn pod_row(agent: &Agent, endpoint: &Endpoint, is_wide: bool) -> Vec<String> {
    let EndpointKey { namespace, pod, ip, port, .. } = endpoint.key.clone().unwrap_or_default();
    let mut row = vec![namespace, pod, agent.node.name.clone(), format!("{ip}:{port}")];
    row.extend(columns(Width::Table).map(|(_, cell)| cell(endpoint)));
    row.push(or_dash(agent.kernel_age(endpoint).map(short)));
    row.push(or_dash(agent.engine_age(endpoint).map(short)));
    row.push(or_dash(endpoint.liveness.as_ref().and_then(liveness)));
    if is_wide {
        row.extend(columns(Width::Wide).map(|(_, cell)| cell(endpoint)));
    }
    row
}

pub(crate) fn liveness(liveness: &Liveness) -> Option<String> {
    let state = liveness.state_name()?;
    Some(liveness.reason_name().map_or_else(|| state.to_owned(), |reason| format!("{state} ({reason})")))
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

fn gpus(gpus: &[(&Agent, &Gpu)]) -> Vec<Vec<String>> {
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
    rows.extend(gpus.iter().map(|(agent, gpu)| gpu_row(agent, gpu)));
    rows
}

fn gpu_row(agent: &Agent, gpu: &Gpu) -> Vec<String> {
    let mut pods: Vec<&str> =
        agent.pods_on(gpu).filter_map(|endpoint| endpoint.key.as_ref().map(|key| key.pod.as_str())).collect();
    pods.dedup();
    let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
    vec![
        agent.node.name.clone(),
        gpu.index.to_string(),
        gpu.name.clone(),
        gpu_health(gpu),
        or_dash(gpu.utilization_percent.map(|percent| format!("{percent}%"))),
        or_dash(memory.map(|(used, total)| format!("{}/{}GiB", gib(used), gib(total)))),
        or_dash(gpu.temperature_celsius.map(|celsius| format!("{celsius}C"))),
        or_dash(gpu.power_mw.map(|milliwatts| format!("{}W", milliwatts / 1000))),
        or_dash(gpu.sm_clock_mhz.map(|mhz| format!("{mhz}MHz"))),
        if gpu.throttle_reasons.is_empty() { "-".into() } else { gpu.throttle_reasons.join(",") },
        or_dash(gpu.last_xid),
        if pods.is_empty() { "-".into() } else { pods.join(",") },
        or_dash(agent.gpu_age(gpu).map(short)),
    ]
}

pub(crate) fn gpu_health(gpu: &Gpu) -> String {
    match gpu.health() {
        GpuHealth::Unspecified => "-".to_owned(),
        GpuHealth::Ok => "ok".to_owned(),
        GpuHealth::Degraded => format!("degraded ({})", gpu.health_reason),
        GpuHealth::Lost => format!("LOST ({})", gpu.health_reason),
    }
}

pub(crate) fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
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
    fn unknown_values_are_dashes() {
        let view = View::new(["127.0.0.1:1".to_owned()]);
        let row = pod_row(&view.agents[0], &Endpoint::default(), false);
        assert_eq!(row[4..], vec!["-"; 13]);
        let row = pod_row(&view.agents[0], &Endpoint::default(), true);
        assert_eq!(row[4..], vec!["-"; 17]);
        let row = gpu_row(&view.agents[0], &Gpu::default());
        assert_eq!(row[3..], vec!["-"; 10]);
    }
}
