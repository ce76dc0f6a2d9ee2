//! The agent's process with many pods without requests.

use std::time::{Duration, Instant};

use anyhow::Result;
use forebay_bench::{
    report::{Section, median, mib, say},
    usage::Tree,
};
use forebay_e2e::harness::get;

const TOKEN_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) async fn measure(pods: u32, runs: u32, duration: Duration) -> Result<Section> {
    let one = cost(1, runs, duration).await?;
    let all = cost(pods, runs, duration).await?;
    let mut section = Section::new(format!("the agent's process, no requests, medians of {runs} runs"));
    section.line(format!("{:<12}{:>14}{:>10}{:>22}", "pods", "% of a core", "MiB", "/metrics of a pod"));
    for (pods, cost) in [(1, one), (pods, all)] {
        section.line(format!(
            "{pods:<12}{:>14.2}{:>10.1}{:>18.1} KiB",
            cost.core_percent,
            cost.resident_mib,
            cost.metrics_bytes as f64 / 1024.0
        ));
    }
    Ok(section)
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    core_percent: f64,
    resident_mib: f64,
    metrics_bytes: usize,
}

async fn cost(pods: u32, runs: u32, duration: Duration) -> Result<Cost> {
    let harness = super::node(pods, TOKEN_INTERVAL, true)?;
    let agent = Tree(harness.agent.pid());
    let (_, metrics) = get(harness.pods[0].address, "/metrics")?;
    let mut percents = Vec::new();
    for run in 0..runs {
        say(&format!("idle, {pods} pods: run {} of {runs}", run + 1));
        let (before, since) = (agent.cpu()?, Instant::now());
        tokio::time::sleep(duration).await;
        let used = (agent.cpu()? - before).total();
        percents.push(100.0 * used.as_secs_f64() / since.elapsed().as_secs_f64());
    }
    Ok(Cost {
        core_percent: median(percents),
        resident_mib: mib(agent.rss_bytes()?),
        metrics_bytes: metrics.len(),
    })
}
