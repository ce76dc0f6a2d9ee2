//! Requests of a pod's server with and without BPF programs on its cgroup.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use forebay_bench::{
    report::{Section, median, say},
    usage::{Tree, of_this_process},
};
use forebay_e2e::{
    harness::{Harness, QWEN},
    load::{Client, Shape},
};
use tokio::task::JoinSet;

const CONNECTIONS: usize = 64;
/// Tokens of a response.
const TOKENS: u32 = 32;
const TOKEN_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
struct Run {
    per_second: f64,
    /// CPU time of the server and of the client, whose packets pass the programs.
    per_core_second: f64,
}

pub(crate) async fn measure(runs: u32, duration: Duration) -> Result<Section> {
    // Each has an agent of its own, which scrapes it.
    let nodes = [super::node(1, TOKEN_INTERVAL, false)?, super::node(1, TOKEN_INTERVAL, true)?];
    let mut results: [Vec<Run>; 2] = Default::default();
    for run in 0..runs as usize {
        say(&format!("server: run {} of {runs}", run + 1));
        for at in [run % 2, (run + 1) % 2] {
            results[at].push(one(&nodes[at], duration).await?);
        }
    }
    let mut section = Section::new(format!(
        "a pod's server, streams of {TOKENS} tokens on {CONNECTIONS} connections, medians of {runs} runs"
    ));
    section.line(format!("{:<26}{:>12}{:>16}", "", "requests/s", "req/core-s"));
    for (name, runs) in ["without BPF programs", "with BPF programs"].iter().zip(&results) {
        let of = |value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
        section.line(format!(
            "{name:<26}{:>12.0}{:>16.0}",
            of(|it| it.per_second),
            of(|it| it.per_core_second)
        ));
    }
    let ratio = |value: fn(&Run) -> f64| {
        let pairs = results[0].iter().zip(&results[1]);
        median(pairs.map(|(without, with)| value(with) / value(without)).collect())
    };
    section.line(format!(
        "with / without: {:.3} of the requests/s, {:.3} of the requests per core-second (medians of the ratios of each run)",
        ratio(|it| it.per_second),
        ratio(|it| it.per_core_second)
    ));
    Ok(section)
}

async fn one(node: &Harness, duration: Duration) -> Result<Run> {
    let server = Tree(node.pods[0].process.pid());
    let address = node.pods[0].address;
    let cpu = || -> Result<Duration> { Ok(server.cpu()?.total() + of_this_process()) };
    let (before, since) = (cpu()?, Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(requests(address, since + duration));
    }
    let counts: Vec<u64> = clients.join_all().await.into_iter().collect::<Result<_>>()?;
    let (elapsed, used) = (since.elapsed(), cpu()? - before);
    let count = counts.iter().sum::<u64>() as f64;
    Ok(Run { per_second: count / elapsed.as_secs_f64(), per_core_second: count / used.as_secs_f64() })
}

async fn requests(address: SocketAddr, until: Instant) -> Result<u64> {
    let mut client = Client::new(address);
    let mut count = 0;
    while Instant::now() < until {
        let outcome = client.chat(QWEN, &Shape::Stream { tokens: TOKENS }).await?;
        ensure!(outcome.done, "a stream was cut off");
        count += 1;
    }
    Ok(count)
}
