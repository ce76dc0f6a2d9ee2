//! Everything about one pod.

use std::time::Duration;

use forebay_telemetry::signals::{SIGNALS, Signal, Source};
use ratatui::text::{Line, Span};

use super::{Theme, cell, distributions, heading};
use crate::{
    fleet::{Fleet, GpuRow, Row, SAMPLES},
    format::{age, fit_start, number, or_dash, percent, sparkline},
    table::gpu_health,
    top::state::State,
};

/// Width of a signal's name, value and age.
const SIGNAL: usize = 38;

pub(super) fn lines(
    row: &Row,
    fleet: &Fleet,
    state: &State,
    theme: Theme,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    let mut lines = vec![
        heading(&format!("pod {}/{}", row.namespace, row.key_name()), theme, width),
        Line::styled(
            fit_start(&format!("verdict: {}", row.verdict.sentence()), width),
            theme.level(row.verdict.level),
        ),
        text(
            &format!("node {}  address {}  model {}", row.node, row.address, or_dash(row.model.as_ref())),
            width,
        ),
        text(
            &format!(
                "pools {}  prefix hits: measured {}, predicted - (pickers know it)",
                if row.pools.is_empty() { "-".into() } else { row.pools.join(", ") },
                or_dash(row.prefix_hits.map(percent))
            ),
            width,
        ),
        Line::default(),
    ];
    lines.extend(distributions::lines(row, theme, width, height));
    lines.push(heading("last minute", theme, width));
    for (name, values) in [("in flight", &row.in_flight_history), ("TTFT p99", &row.ttft_history)] {
        lines.push(text(&format!("  {name:<10}{}", sparkline(values, SAMPLES)), width));
    }
    lines.push(Line::default());
    lines.extend(gpus(row, fleet, state, theme, width));
    for (source, name, age, off, is_stale) in [
        (Source::Kernel, "kernel", row.kernel_age, &row.endpoint.kernel_off, row.is_kernel_stale()),
        (Source::Engine, "engine", row.engine_age, &row.endpoint.engine_off, row.is_engine_stale()),
    ] {
        lines.push(heading(&source_title(name, age, off.as_deref()), theme, width));
        lines.extend(signals(row, source, is_stale, theme, width));
    }
    lines
}

fn text(text: &str, width: usize) -> Line<'static> {
    Line::raw(fit_start(text, width))
}

fn gpus(row: &Row, fleet: &Fleet, state: &State, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![heading("GPUs", theme, width)];
    for (at, gpu) in fleet.gpus_of(row).enumerate() {
        let line = Line::styled(fit_start(&gpu_line(gpu, theme), width), theme.level(gpu.level));
        lines.push(if at == state.selected_gpu { line.patch_style(theme.selected()) } else { line });
    }
    if lines.len() == 1 {
        lines.push(text("  none known", width));
    }
    lines.push(Line::default());
    lines
}

fn gpu_line(row: &GpuRow, theme: Theme) -> String {
    let gpu = &row.gpu;
    let mark = if row.is_stale { theme.stale_mark() } else { "" };
    format!(
        "  {mark}{} {}  {}  util {}  {}  {}  age {}",
        gpu.index,
        gpu.name,
        gpu_health(gpu),
        or_dash(gpu.utilization_percent.map(|it| format!("{it}%"))),
        or_dash(gpu.sm_clock_mhz.map(|mhz| format!("{mhz}MHz"))),
        if gpu.throttle_reasons.is_empty() { "-".into() } else { gpu.throttle_reasons.join(",") },
        or_dash(row.age.map(age)),
    )
}

fn source_title(name: &str, source_age: Option<Duration>, off: Option<&str>) -> String {
    match (off, source_age) {
        (Some(reason), _) => format!("{name}: off: {reason}"),
        (None, Some(source_age)) => format!("{name}, age {}", age(source_age)),
        (None, None) => format!("{name}: nothing measured"),
    }
}

/// Name and value of every signal of a source, in as many columns as fit.
fn signals(row: &Row, source: Source, is_stale: bool, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let of = |signal: &Signal| {
        let value = or_dash((signal.value)(&row.endpoint).map(number));
        let name = format!("  {:<24}", signal.json);
        let left = SIGNAL - name.chars().count() - 1;
        [Span::raw(name), cell(&value, left, false, is_stale, theme)]
    };
    let all: Vec<_> = SIGNALS.iter().filter(|signal| signal.source == source).map(of).collect();
    let columns = (width / SIGNAL).max(1);
    let mut lines: Vec<Line<'static>> = all
        .chunks(columns)
        .map(|chunk| Line::from(chunk.iter().flatten().cloned().collect::<Vec<_>>()))
        .collect();
    lines.push(Line::default());
    lines
}
