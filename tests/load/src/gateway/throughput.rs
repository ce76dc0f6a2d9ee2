//! Requests per second of CPU time of the proxy (core-second).

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    client::{self, Load},
    proxies::{Kind, Proxies, Proxy},
    request::{Order, RawRequest},
};
use forebay_bench::{
    report::{Section, median, mib, say},
    usage::Cpu,
};

pub(crate) const SIZES: [(&str, usize); 4] =
    [("1 KiB", 1 << 10), ("16 KiB", 16 << 10), ("220 KB", 220_000), ("2 MB", 2_000_000)];
pub(crate) const CONNECTIONS: usize = 32;
/// Load before each measurement, to open connections and grow buffers.
const WARM_UP: Duration = Duration::from_millis(200);

/// Result of one run of one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    requests: u64,
    cpu: Cpu,
    per_second: f64,
    client_share: f64,
    peak_bytes: u64,
}

impl Run {
    pub(crate) fn per_core_second(&self) -> f64 {
        self.requests as f64 / self.cpu.total().as_secs_f64()
    }
}

/// Index of the body size, proxy, order.
type Cell = (usize, Kind, Order);

/// Measures all cells. `only`: names of the body sizes to measure; empty for all.
pub(crate) fn measure(proxies: &Proxies, runs: u32, duration: Duration, only: &[String]) -> Result<Section> {
    let mut cells: Vec<(usize, &Proxy, Order)> = Vec::new();
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    for size in (0..SIZES.len()).filter(|&size| is_wanted(SIZES[size].0)) {
        for proxy in &proxies.all {
            cells.push((size, proxy, Order::ModelFirst));
            if proxy.kind.extracts() {
                cells.push((size, proxy, Order::ModelLast));
            }
        }
    }
    let mut results: BTreeMap<Cell, Vec<Run>> = BTreeMap::new();
    for run in 0..runs as usize {
        say(&format!("throughput: run {} of {runs}, {} measurements", run + 1, cells.len()));
        // Rotate, so that other load on the machine affects different cells in each run.
        let count = cells.len();
        cells.rotate_left((count / runs as usize).max(1) % count);
        for &(size, proxy, order) in &cells {
            let measured = one(proxy, &RawRequest::chat(SIZES[size].1, order), duration)
                .with_context(|| format!("{}, {}, {order}", proxy.kind, SIZES[size].0))?;
            results.entry((size, proxy.kind, order)).or_default().push(measured);
        }
    }
    Ok(report(&results, runs))
}

pub(crate) fn one(proxy: &Proxy, request: &RawRequest, duration: Duration) -> Result<Run> {
    client::closed_loop(&proxy.target, request, CONNECTIONS, WARM_UP)?;
    proxy.reset_peak()?;
    let before = proxy.cpu()?;
    let Load { requests, elapsed, client_cpu } =
        client::closed_loop(&proxy.target, request, CONNECTIONS, duration)?;
    let cpu = proxy.cpu()? - before;
    Ok(Run {
        requests,
        cpu,
        per_second: requests as f64 / elapsed.as_secs_f64(),
        client_share: client_cpu.as_secs_f64() / elapsed.as_secs_f64(),
        peak_bytes: proxy.peak_bytes()?,
    })
}

fn report(results: &BTreeMap<Cell, Vec<Run>>, runs: u32) -> Section {
    let mut section = Section::new(format!(
        "requests per core-second of the proxy processes, {CONNECTIONS} connections, medians of {runs} runs"
    ));
    let median_of = |cell: &Cell, value: fn(&Run) -> f64| {
        median(results.get(cell).into_iter().flatten().map(value).collect())
    };
    // Ratio within each run, because other load on the machine changes between runs and affects all cells.
    let ratio = |cell: &Cell, to: &Cell| {
        let runs = results[cell].iter().zip(&results[to]);
        median(runs.map(|(run, to)| run.per_core_second() / to.per_core_second()).collect())
    };
    section.line(format!(
        "{:<8}{:<26}{:<13}{:>10}{:>9}{:>11}{:>9}{:>10}",
        "body", "proxy", "order", "req/core-s", "x nginx", "req/s", "client", "peak MiB"
    ));
    for cell @ (size, kind, order) in results.keys() {
        let per_core = median_of(cell, Run::per_core_second);
        let rate = median_of(cell, |run| run.per_second);
        let client = median_of(cell, |run| run.client_share);
        let peak = median_of(cell, |run| mib(run.peak_bytes));
        let (body, order) = (SIZES[*size].0, if kind.extracts() { order.to_string() } else { String::new() });
        if *kind == Kind::Direct {
            section.line(format!(
                "{body:<8}{kind:<26}{order:<13}{:>10}{:>9}{rate:>11.0}{:>8.0}%",
                "",
                "",
                100.0 * client
            ));
        } else {
            section.line(format!(
                "{body:<8}{kind:<26}{order:<13}{per_core:>10.0}{:>9.2}{rate:>11.0}{:>8.0}%{peak:>10.1}",
                ratio(cell, &(*size, Kind::Nginx, Order::ModelFirst)),
                100.0 * client
            ));
        }
    }
    for cell @ (size, kind, order) in results.keys() {
        let without = (*size, Kind::ForebayLeastRequest, *order);
        if *kind == Kind::Forebay {
            section.line(format!(
                "{}, {order}: picks by prompt at {:.2} of picks by least requests",
                SIZES[*size].0,
                ratio(cell, &without)
            ));
        }
    }
    section.line("client: share of one core used by the client; direct: requests without a proxy");
    section.line("ratios: median of the ratios of each run");
    for &(size, kind, order) in results.keys() {
        let (large, small) = ((1, kind, order), (0, kind, order));
        if size == 0 && kind != Kind::Direct && results.contains_key(&large) {
            let (own, own_large) = (
                microseconds(results, &small, |cpu| cpu.user),
                microseconds(results, &large, |cpu| cpu.user),
            );
            let (kernel, kernel_large) = (
                microseconds(results, &small, |cpu| cpu.system),
                microseconds(results, &large, |cpu| cpu.system),
            );
            section.line(format!(
                "{kind}, {order}: 16 KiB at {:.2} of 1 KiB; user time per request {own:.1} and {own_large:.1} us, system time {kernel:.1} and {kernel_large:.1} us",
                ratio(&large, &small)
            ));
        }
    }
    section
}

/// Mean CPU time per request over all runs.
fn microseconds(results: &BTreeMap<Cell, Vec<Run>>, cell: &Cell, part: fn(Cpu) -> Duration) -> f64 {
    let runs = &results[cell];
    let requests: u64 = runs.iter().map(|run| run.requests).sum();
    part(runs.iter().map(|run| run.cpu).sum()).as_secs_f64() * 1e6 / requests as f64
}
