//! The agent's process under load, with one subscriber and with eight.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use forebay_bench::{
    report::{Section, median, mib, say},
    usage::Tree,
};
use forebay_e2e::{
    TIMEOUT,
    harness::{Harness, QWEN},
    load::{Client, Shape},
};
use forebay_telemetry::client::{self, Event, WatchOptions};
use tokio::{sync::watch, task::JoinSet};

const PODS: u32 = 8;
/// 50 streams of 50 tokens, one in a millisecond: 1,000 requests and 50,000 chunks per second, if the machine can.
const CLIENTS: usize = 50;
const TOKENS: u32 = 50;
const TOKEN_INTERVAL: Duration = Duration::from_millis(1);
/// The picker of the node's pool is one of them.
const SUBSCRIBERS: [usize; 2] = [1, 8];

#[derive(Debug, Default)]
struct Done {
    requests: AtomicU64,
    chunks: AtomicU64,
}

/// Those that this program starts.
#[derive(Debug, Default)]
struct Subscribers {
    /// That have the first frame.
    watching: usize,
    is_lost: bool,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    core_percent: f64,
    requests: f64,
    chunks: f64,
    resident_mib: f64,
}

pub(crate) async fn measure(runs: u32, duration: Duration) -> Result<Section> {
    let harness = super::node(PODS, TOKEN_INTERVAL, true)?;
    let done = Arc::new(Done::default());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let pod = harness.pods[client % harness.pods.len()].address;
        clients.spawn(requests(pod, Arc::clone(&done)));
    }
    let mut results: [Vec<Run>; 2] = Default::default();
    for run in 0..runs as usize {
        say(&format!("load: run {} of {runs}", run + 1));
        for at in [run % 2, (run + 1) % 2] {
            results[at].push(one(&harness, SUBSCRIBERS[at], &done, duration).await?);
        }
        ensure!(clients.try_join_next().is_none(), "a client has failed");
    }
    let mut section = Section::new(format!("the agent's process, {PODS} pods, medians of {runs} runs"));
    section.line(format!(
        "{:<14}{:>12}{:>12}{:>14}{:>10}",
        "subscribers", "requests/s", "chunks/s", "% of a core", "MiB"
    ));
    for (subscribers, runs) in SUBSCRIBERS.iter().zip(&results) {
        let of = |value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
        section.line(format!(
            "{subscribers:<14}{:>12.0}{:>12.0}{:>14.2}{:>10.1}",
            of(|it| it.requests),
            of(|it| it.chunks),
            of(|it| it.core_percent),
            of(|it| it.resident_mib)
        ));
    }
    let ratios = results[0].iter().zip(&results[1]).map(|(one, many)| many.core_percent / one.core_percent);
    section.line(format!(
        "{} subscribers / {}: {:.2} of the CPU time (median of the ratios of each run)",
        SUBSCRIBERS[1],
        SUBSCRIBERS[0],
        median(ratios.collect())
    ));
    Ok(section)
}

async fn one(harness: &Harness, subscribers: usize, done: &Done, duration: Duration) -> Result<Run> {
    let agent = Tree(harness.agent.pid());
    let mut watching = JoinSet::new();
    let state = watch::Sender::new(Subscribers::default());
    for _ in 1..subscribers {
        watching.spawn(subscribe(harness.network.agent(), state.clone()));
    }
    let all_watch = |state: &Subscribers| state.watching + 1 == subscribers || state.is_lost;
    tokio::time::timeout(TIMEOUT, state.subscribe().wait_for(all_watch))
        .await
        .context("the subscribers get no snapshot")??;
    let counts = || [&done.requests, &done.chunks].map(|count| count.load(Ordering::Relaxed));
    let (cpu, counted, since) = (agent.cpu()?, counts(), Instant::now());
    tokio::time::sleep(duration).await;
    let used = (agent.cpu()? - cpu).total();
    let seconds = since.elapsed().as_secs_f64();
    ensure!(!state.borrow().is_lost, "a subscriber has lost the agent");
    let [requests, chunks] = [0, 1].map(|at| (counts()[at] - counted[at]) as f64 / seconds);
    Ok(Run {
        core_percent: 100.0 * used.as_secs_f64() / seconds,
        requests,
        chunks,
        resident_mib: mib(agent.rss_bytes()?),
    })
}

async fn requests(pod: SocketAddr, done: Arc<Done>) -> Result<()> {
    let mut client = Client::new(pod);
    loop {
        let outcome = client.chat(QWEN, &Shape::Stream { tokens: TOKENS }).await?;
        ensure!(outcome.done, "a stream was cut off");
        done.requests.fetch_add(1, Ordering::Relaxed);
        done.chunks.fetch_add(outcome.events.into(), Ordering::Relaxed);
    }
}

async fn subscribe(agent: SocketAddr, state: watch::Sender<Subscribers>) {
    let options = WatchOptions {
        subscriber: "bench".into(),
        min_interval: Duration::ZERO,
        heartbeat: Duration::from_secs(1),
        latencies: false,
        tls: None,
    };
    let mut is_watching = false;
    client::watch(agent, &options, |event| match event {
        Event::Frame(_) if is_watching => {}
        Event::Frame(_) => {
            is_watching = true;
            state.send_modify(|state| state.watching += 1);
        }
        Event::Down { reason, .. } => {
            say(&format!("subscriber: {reason}"));
            state.send_modify(|state| state.is_lost = true);
        }
    })
    .await;
}
