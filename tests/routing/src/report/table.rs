use super::{Spread, Summary};

/// A policy and what it reached.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    pub policy: String,
    pub summary: Summary,
}

const HEADER: [&str; 11] = [
    "policy",
    "TTFT p50 ms",
    "p90 ms",
    "(min-max)",
    "p99 ms",
    "p90 ratio",
    "E2E p90 ms",
    "out tok/s",
    "hit %",
    "timeouts+failed",
    "busiest/mean",
];

/// A Markdown table of medians. `p90 ratio` is the TTFT p90 by that of the policy `baseline`; `-` without one.
pub fn table(title: &str, baseline: &str, rows: &[PolicyRow]) -> String {
    let base = rows.iter().find(|row| row.policy == baseline).map(|row| row.summary.ttft_p90_ms.median);
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, base)).collect();
    let header: Vec<String> = HEADER.iter().map(|&name| name.to_owned()).collect();
    let width = |column: usize| {
        cells.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut text = format!("{title}\n\n");
    text.push_str(&line(&header, &widths));
    let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    text.push_str(&line(&rules, &widths));
    for row in &cells {
        text.push_str(&line(row, &widths));
    }
    text
}

fn cells(row: &PolicyRow, base: Option<f64>) -> Vec<String> {
    let summary = &row.summary;
    let whole = |spread: Spread| format!("{:.0}", spread.median);
    let p90 = summary.ttft_p90_ms;
    let ratio =
        base.filter(|&base| base > 0.0).map_or("-".to_owned(), |base| format!("{:.2}", p90.median / base));
    vec![
        row.policy.clone(),
        whole(summary.ttft_p50_ms),
        whole(p90),
        format!("{:.0}-{:.0}", p90.min, p90.max),
        whole(summary.ttft_p99_ms),
        ratio,
        whole(summary.e2e_p90_ms),
        whole(summary.output_tokens_per_s),
        format!("{:.1}", summary.prefix_hit_share.median * 100.0),
        format!("{:.0}+{:.0}", summary.timed_out.median, summary.failed.median),
        format!("{:.2}", summary.busiest_pod_ratio.median),
    ]
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, &width))| {
        if column == 0 { format!(" {cell:<width$} ") } else { format!(" {cell:>width$} ") }
    });
    format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
}
