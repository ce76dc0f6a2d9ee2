//! Latency distributions of a pod, next to each other.

use std::time::Duration;

use forebay_telemetry::{
    Bucket,
    signals::{LATENCIES, LatencySignal},
    v1::Latency,
};
use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::{Theme, cell};
use crate::{
    fleet::Row,
    format::{age, bar, fit_start, or_dash, short},
};

/// Width of a distribution with the most buckets, and the least space between two distributions.
const PANEL: usize = 36;
const GAP: usize = 2;
/// Widest bar.
const MAX_BAR: usize = 4;
/// Lines of the bars, in a terminal with so many lines or fewer, and in a higher one.
const LOW: (usize, usize) = (30, 4);
const HIGH: usize = 8;

/// A part of a line, as wide as its panel.
type Cells = Vec<Span<'static>>;

/// As many distributions as fit next to each other: TTFT and ITL in 80 columns, with the duration in 112. In a narrow
/// terminal TTFT and ITL are below each other.
pub(super) fn lines(row: &Row, theme: Theme, width: usize, height: usize) -> Vec<Line<'static>> {
    let columns = ((width + GAP) / (PANEL + GAP)).clamp(1, LATENCIES.len());
    let of_panel = ((width + GAP) / columns).saturating_sub(GAP);
    let shown = &LATENCIES[..columns.max(2)];
    let bars = if height <= LOW.0 { LOW.1 } else { HIGH };
    let panels: Vec<Vec<Cells>> = shown.iter().map(|it| panel(it, row, theme, of_panel, bars)).collect();
    let mut lines = Vec::new();
    for side_by_side in panels.chunks(columns) {
        let height = side_by_side.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let parts = side_by_side.iter().map(|panel| panel.get(at).cloned().unwrap_or_default());
            let parts = parts.map(|cells| fill(cells, of_panel + GAP));
            lines.push(Line::from(parts.flatten().collect::<Vec<_>>()));
        }
        lines.push(Line::default());
    }
    lines
}

fn panel(signal: &LatencySignal, row: &Row, theme: Theme, width: usize, height: usize) -> Vec<Cells> {
    let name = if signal.json == "duration" { "duration".to_owned() } else { signal.json.to_uppercase() };
    let title = |text: &str| vec![Span::styled(fit_start(&format!("{name}: {text}"), width), theme.title())];
    let summary = match (signal.value)(&row.endpoint) {
        None => return vec![title("unknown")],
        Some(summary) if summary.count == 0 => return vec![title("none in the last minute")],
        Some(summary) => summary,
    };
    let known_age = or_dash(row.kernel_age.map(age));
    let mut lines = vec![title(&format!("{} in a minute, age {known_age}", summary.count))];
    lines.push(quantiles(&summary, row, theme, width));
    let histogram = row.latencies.as_ref().and_then(signal.histogram);
    let buckets: Vec<Bucket> = histogram.into_iter().flat_map(|it| it.buckets()).collect();
    if buckets.is_empty() {
        lines.push(vec![Span::raw(fit_start("  this agent sends no distribution", width))]);
        return lines;
    }
    let style = if row.is_kernel_stale() { theme.stale() } else { theme.bar() };
    let of_bar = (width / buckets.len()).clamp(1, MAX_BAR);
    lines.extend(bars(&buckets, of_bar, height, style));
    lines.push(vec![Span::styled(fit_start(&axis(&buckets, of_bar), width), theme.faint())]);
    lines
}

/// Quantiles, and the mean where there is space.
fn quantiles(summary: &Latency, row: &Row, theme: Theme, width: usize) -> Cells {
    let mean_ns = summary.sum_ns / summary.count.max(1);
    let all = [("p50", summary.p50_ns), ("p95", summary.p95_ns), ("p99", summary.p99_ns), ("mean", mean_ns)];
    let mut cells = Vec::new();
    let mut used = 0;
    for (name, value_ns) in all {
        let value = short(Duration::from_nanos(value_ns));
        let value = cell(&value, value.chars().count(), true, row.is_kernel_stale(), theme);
        let name = format!("{name} ");
        used += name.len() + value.width() + 1;
        if used > width + 1 {
            break;
        }
        cells.extend([Span::raw(name), value, Span::raw(" ")]);
    }
    cells
}

/// One bar for each bucket, in eighths of a line. A bucket that is not empty can be seen.
fn bars(buckets: &[Bucket], of_bar: usize, height: usize, style: Style) -> Vec<Cells> {
    let most = buckets.iter().map(|it| it.count).max().unwrap_or(0).max(1);
    let eighths = |count: u64| {
        let eighths = (count as f64 / most as f64 * (height * 8) as f64).round() as usize;
        if count == 0 { 0 } else { eighths.max(1) }
    };
    let line = |from_bottom: usize| {
        let in_line = |it: &Bucket| bar(eighths(it.count).saturating_sub(from_bottom * 8).min(8));
        let text: String = buckets.iter().flat_map(|it| std::iter::repeat_n(in_line(it), of_bar)).collect();
        vec![Span::styled(text, style)]
    };
    (0..height).rev().map(line).collect()
}

/// The bounds of the first and the last bucket, and that in the middle if it fits.
fn axis(buckets: &[Bucket], of_bar: usize) -> String {
    let width = buckets.len() * of_bar;
    let first = buckets.first().map(|it| short(it.from)).unwrap_or_default();
    let last = buckets.last().map(|it| short(it.to)).unwrap_or_default();
    let half = buckets.len() / 2;
    let middle = buckets.get(half).map(|it| short(it.from)).unwrap_or_default();
    let mut text = first;
    let free = (half * of_bar).checked_sub(text.len()).filter(|free| *free > 1);
    let end = width.saturating_sub(last.len());
    if let Some(free) = free
        && half * of_bar + middle.len() + 1 < end
    {
        text.push_str(&format!("{:free$}{middle}", ""));
    }
    let free = end.saturating_sub(text.len()).max(1);
    format!("{text}{:free$}{last}", "")
}

fn fill(mut cells: Cells, width: usize) -> Cells {
    let used: usize = cells.iter().map(Span::width).sum();
    cells.push(Span::raw(" ".repeat(width.saturating_sub(used))));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(bounds_ms: &[u64], counts: &[u64]) -> Vec<Bucket> {
        let of = |(bounds, count): (&[u64], &u64)| Bucket {
            from: Duration::from_millis(bounds[0]),
            to: Duration::from_millis(bounds[1]),
            count: *count,
        };
        bounds_ms.windows(2).zip(counts).map(of).collect()
    }

    fn drawn(buckets: &[Bucket], of_bar: usize, height: usize) -> Vec<String> {
        let lines = bars(buckets, of_bar, height, Style::new());
        lines.into_iter().map(|line| line.into_iter().map(|it| it.content).collect()).collect()
    }

    #[test]
    fn one_in_a_thousand_can_be_seen_and_none_cannot() {
        let all = buckets(&[10, 20, 30, 40, 50], &[1_000, 500, 0, 1]);
        assert_eq!(drawn(&all, 1, 2), ["\u{2588}   ", "\u{2588}\u{2588} \u{2581}"]);
        assert_eq!(drawn(&all, 2, 1), ["\u{2588}\u{2588}\u{2584}\u{2584}  \u{2581}\u{2581}"]);
    }

    #[test]
    fn the_axis_has_the_bounds_that_fit() {
        let all = buckets(&[10, 20, 40, 80, 160], &[1, 2, 3, 4]);
        assert_eq!(axis(&all, 1), "10ms 160ms");
        assert_eq!(axis(&all, 4), "10ms       160ms");
        assert_eq!(axis(&all, 6), "10ms        40ms   160ms");
    }
}
