//! `forebay-freshness`: age of a load change when a pick first uses it.
//!
//! Two pods of a pool run the same number of streams. Then one more request is sent directly to one of them, without
//! the gateway and the picker, while picks are made in a loop. The age is the time from the first byte of that request
//! to the first pick that avoids the pod. It includes kernel, ring buffer, agent, gRPC and picker.
//!
//! Baseline: a picker that scrapes the engine metrics over HTTP every 50 ms.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use forebay_e2e::{
    TIMEOUT,
    harness::{Engine, Harness, HarnessOptions, NAMESPACE, PoolOptions, QWEN, SimOptions, get},
    load::{Client, Shape},
};
use forebay_epp::{
    PickerOptions, Pools,
    schedule::{PickRequest, Scheduler},
};
use forebay_resources::{ObjectKey, Store, folder};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

const POOL: &str = "vllm-qwen3-06b";
const CHANGES: usize = 400;
const BASELINE_CHANGES: usize = 60;
/// Default scrape interval of the llm-d picker.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(50);
/// Streams on each pod during the whole run.
const BACKGROUND_STREAMS: usize = 8;
/// Consecutive picks of the other pod after which a pod counts as avoided. Equally loaded pods are picked alternately.
const AVOIDED: usize = 3;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(report) => {
            let _ = writeln!(io::stdout(), "{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "forebay-freshness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String> {
    let harness = tokio::task::block_in_place(|| {
        Harness::start(HarnessOptions {
            // Engine step of 10 ms; the gauges are updated after each step.
            engine: Engine::Sim(SimOptions {
                token_interval_us: 10_000,
                metrics_lag_ms: 10,
                ..SimOptions::default()
            }),
            pools: vec![PoolOptions { name: POOL, model: QWEN, pods: 2 }],
            ..HarnessOptions::default()
        })
    })?;
    ensure!(
        harness.unavailable.is_empty(),
        "cannot measure on this machine: {}",
        harness.unavailable.join("; ")
    );
    let pods: Vec<SocketAddr> = harness.pods.iter().map(|pod| pod.address).collect();

    let mut background = tokio::task::JoinSet::new();
    for &pod in &pods {
        for _ in 0..BACKGROUND_STREAMS {
            background.spawn(async move {
                Client::new(pod).chat(QWEN, &Shape::Stream { tokens: 1_000_000 }).await
            });
        }
    }
    let store = Store::new();
    let _provider = folder::start(harness.resources(), Arc::clone(&store)).await?;
    let pool = ObjectKey::new(NAMESPACE, POOL);
    let pools = Pools::start(store, pool.clone().into(), PickerOptions::default())?;
    let scheduler = pools.scheduler(&pool).context("the pool is not served")?;

    let mut pushed = Vec::with_capacity(CHANGES);
    for change in 0..CHANGES {
        await_balance(&scheduler).await?;
        pushed.push(until_avoided(&scheduler, pods[change % 2]).await?);
    }
    let mut scraped = Vec::with_capacity(BASELINE_CHANGES);
    for change in 0..BASELINE_CHANGES {
        await_balance(&scheduler).await?;
        // Spread the changes evenly over the scrape interval.
        let to_next_scrape = SCRAPE_INTERVAL.mul_f64((change as f64 + 0.5) / BASELINE_CHANGES as f64);
        scraped.push(until_scraped(pods[change % 2], to_next_scrape).await?);
    }
    let (pushed, scraped) = (Distribution::of(pushed), Distribution::of(scraped));
    Ok(format!(
        "age of a load change when a pick uses it, {CHANGES} changes, {} streams running:\n\
         \x20 forebay (kernel, agent, picker)        p50 {:>9.3?}   p99 {:>9.3?}\n\
         \x20 engine metrics scraped every {SCRAPE_INTERVAL:?}    p50 {:>9.3?}   p99 {:>9.3?}   ({BASELINE_CHANGES} changes)\n\
         \x20 ratio                                  p50 {:>8.1}x   p99 {:>8.1}x",
        2 * BACKGROUND_STREAMS,
        pushed.p50,
        pushed.p99,
        scraped.p50,
        scraped.p99,
        scraped.p50.as_secs_f64() / pushed.p50.as_secs_f64(),
        scraped.p99.as_secs_f64() / pushed.p99.as_secs_f64(),
    ))
}

/// Waits until the picker sees the same load on both pods.
async fn await_balance(scheduler: &Scheduler) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let loads: Vec<u64> = scheduler
            .endpoints()
            .endpoints()
            .iter()
            .filter_map(|endpoint| endpoint.kernel_in_flight)
            .collect();
        if loads == [BACKGROUND_STREAMS as u64; 2] {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the loads do not become equal: {loads:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Opens a request to the pod. Returns the time until picks avoid the pod. The request ends when its connection is
/// dropped.
async fn until_avoided(scheduler: &Scheduler, pod: SocketAddr) -> Result<Duration> {
    let (_request, started) = open_request(pod).await?;
    let mut first_other = started;
    let mut others = 0;
    while others < AVOIDED {
        let pick = scheduler.pick(&PickRequest::default()).context("the picker returned no endpoint")?;
        if pick.addresses().first() == Some(&pod) {
            others = 0;
        } else {
            if others == 0 {
                first_other = Instant::now();
            }
            others += 1;
        }
        ensure!(started.elapsed() < TIMEOUT, "the change did not arrive");
        drop(pick);
        // Let the tasks of the picker use this thread, and the agent use this core.
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
    Ok(first_other - started)
}

/// Baseline: the time until a scrape of the engine metrics shows the request.
async fn until_scraped(pod: SocketAddr, to_next_scrape: Duration) -> Result<Duration> {
    let (_request, started) = open_request(pod).await?;
    let expected = format!("}} {:?}", (BACKGROUND_STREAMS + 1) as f64);
    let mut wait = to_next_scrape;
    loop {
        tokio::time::sleep(wait).await;
        wait = SCRAPE_INTERVAL;
        let (_, text) = tokio::task::block_in_place(|| get(pod, "/metrics"))?;
        let running = text.lines().find(|line| line.starts_with("vllm:num_requests_running"));
        if running.is_some_and(|line| line.ends_with(&expected)) {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < TIMEOUT, "the change did not arrive");
    }
}

/// Opens a long stream directly to a pod. Returns the connection and the time of the first byte.
async fn open_request(pod: SocketAddr) -> Result<(TcpStream, Instant)> {
    let mut stream = TcpStream::connect(pod).await?;
    stream.set_nodelay(true)?;
    let body = format!(r#"{{"model":"{QWEN}","messages":[],"max_tokens":1000000,"stream":true}}"#);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {pod}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let started = Instant::now();
    stream.write_all(request.as_bytes()).await?;
    Ok((stream, started))
}

struct Distribution {
    p50: Duration,
    p99: Duration,
}

impl Distribution {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
        Self { p50: at(0.5), p99: at(0.99) }
    }
}
