//! Everything about one GPU.

use ratatui::text::{Line, Span};

use super::{Theme, cell, heading};
use crate::{
    fleet::GpuRow,
    format::{age, fit_start, gib, or_dash},
    table::gpu_health,
};

/// Width of a value.
const VALUE: usize = 24;

pub(super) fn lines(row: &GpuRow, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let gpu = &row.gpu;
    let mut lines = vec![
        heading(&format!("GPU {} of {}  {}", gpu.index, row.node, gpu.name), theme, width),
        Line::styled(fit_start(&format!("health: {}", gpu_health(gpu)), width), theme.level(row.level)),
        Line::raw(fit_start(&format!("{}  age {}", gpu.uuid, or_dash(row.age.map(age))), width)),
        Line::default(),
    ];
    let watts = |milliwatts: u64| milliwatts / 1000;
    let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
    let values = [
        ("utilisation", or_dash(gpu.utilization_percent.map(|it| format!("{it}%")))),
        ("memory", or_dash(memory.map(|(used, total)| format!("{} of {} GiB", gib(used), gib(total))))),
        ("temperature", or_dash(gpu.temperature_celsius.map(|it| format!("{it} C")))),
        ("power", or_dash(gpu.power_mw.map(|it| format!("{} W", watts(it))))),
        ("power limit", or_dash(gpu.power_limit_mw.map(|it| format!("{} W", watts(it))))),
        ("SM clock", or_dash(gpu.sm_clock_mhz.map(|it| format!("{it} MHz")))),
        ("SM clock, maximum", or_dash(gpu.sm_clock_max_mhz.map(|it| format!("{it} MHz")))),
        ("XID errors", gpu.xid_errors.to_string()),
        ("last XID error", or_dash(gpu.last_xid)),
        ("age of it", or_dash(row.xid_age.map(age))),
    ];
    for (name, value) in values {
        let value = cell(&value, VALUE, true, row.is_stale, theme);
        lines.push(Line::from(vec![Span::raw(format!("  {name:<20}")), value]));
    }
    let parts = [
        ("clocks throttled by", "no reason reported", &gpu.throttle_reasons),
        ("pods on it", "none known", &row.pods),
    ];
    for (title, none, items) in parts {
        lines.push(Line::default());
        lines.push(heading(title, theme, width));
        if items.is_empty() {
            lines.push(Line::raw(format!("  {none}")));
        }
        lines.extend(items.iter().map(|item| Line::raw(fit_start(&format!("  {item}"), width))));
    }
    lines
}
