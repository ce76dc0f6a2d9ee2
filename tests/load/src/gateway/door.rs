//! What a door costs: the gateway with API keys, a rule and quotas against the same gateway without.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{
    proxies::{Kind, Proxies},
    request::{Order, RawRequest},
    throughput::{Run, one},
};
use forebay_bench::report::{Section, median, say};

const BODY_BYTES: usize = 1 << 10;
const STORES: [&str; 2] = ["/usr/bin/valkey-server", "/usr/bin/redis-server"];

pub(crate) fn measure(workers: u32, runs: u32, duration: Duration) -> Result<Section> {
    let store = STORES.iter().map(Path::new).find(|program| program.is_file());
    if store.is_none() {
        say("skipped: quota store: neither valkey-server nor redis-server is installed");
    }
    let proxies = Proxies::door(workers, store)?;
    let request = RawRequest::chat(BODY_BYTES, Order::ModelFirst);
    let mut results: Vec<Vec<Run>> = proxies.all.iter().map(|_| Vec::new()).collect();
    for run in 0..runs as usize {
        say(&format!("door: run {} of {runs}", run + 1));
        // Rotated, so that other load on the machine affects each in turn.
        for at in 0..proxies.all.len() {
            let at = (at + run) % proxies.all.len();
            results[at].push(one(&proxies.all[at], &request, duration)?);
        }
    }
    let mut section = Section::new(format!(
        "what a door costs: requests of 1 KiB per core-second of the gateway, medians of {runs} runs"
    ));
    section.line(format!("{:<30}{:>11}{:>12}", "", "req/core-s", "x without"));
    let without: Vec<f64> = results[0].iter().map(Run::per_core_second).collect();
    for (proxy, runs) in proxies.all.iter().zip(&results) {
        let rates: Vec<f64> = runs.iter().map(Run::per_core_second).collect();
        let ratios = rates.iter().zip(&without).map(|(rate, without)| rate / without).collect();
        let name = if proxy.kind == Kind::Forebay { "without".to_owned() } else { proxy.kind.to_string() };
        section.line(format!("{name:<30}{:>11.0}{:>12.3}", median(rates), median(ratios)));
    }
    section.line("the store's own time is not counted; ratios: median of the ratios of each run");
    Ok(section)
}
