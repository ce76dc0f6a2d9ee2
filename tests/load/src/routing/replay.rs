//! Sends the requests of a trace, at their times divided by the speed of the engines.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use forebay_bench::report;
use forebay_e2e::{harness::QWEN, load::Client};
use forebay_routing_sim::{
    Outcome, Request, Time, Trace, UNIT_TOKENS,
    run::RequestRecord,
    trace::{Entry, Start},
};
use serde_json::json;
use tokio::task::JoinSet;

/// Bytes of a token in prompts.
const BYTES_PER_TOKEN: usize = 4;
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(20);

/// Where requests go, and how fast time passes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) gateway: SocketAddr,
    pub(super) pods: Vec<SocketAddr>,
    /// Share of the requests that go to a random pod without the gateway.
    pub(super) foreign_share: f64,
    /// A second of the trace takes this part of a second.
    pub(super) speed: f64,
    /// Of the trace's time.
    pub(super) client_timeout: Duration,
    pub(super) seed: u64,
}

/// Sends all requests. Returns the outcomes, in the time of the trace.
pub(super) async fn replay(trace: &Trace, target: Target) -> Result<Vec<RequestRecord>> {
    let mut starts = Vec::new();
    let mut followers = vec![Vec::new(); trace.entries.len()];
    for (index, entry) in trace.entries.iter().enumerate() {
        match entry.start {
            Start::At(at) => starts.push((at, index)),
            Start::After { previous, pause } => followers[previous].push((index, pause)),
        }
    }
    starts.sort_unstable();
    let mut random = fastrand::Rng::with_seed(target.seed);
    let foreign: Vec<Option<usize>> = (0..trace.entries.len())
        .map(|_| (random.f64() < target.foreign_share).then(|| random.usize(..target.pods.len())))
        .collect();
    let target = Arc::new(target);
    let began = Instant::now();
    let send = |index: usize, not_before: Instant| {
        let (entry, target, pod) = (trace.entries[index].clone(), Arc::clone(&target), foreign[index]);
        async move {
            tokio::time::sleep_until(not_before.into()).await;
            (index, one(&entry, index, pod, &target, began).await)
        }
    };
    let mut open = JoinSet::new();
    for (at, index) in starts {
        let wall = Duration::from_nanos(at.as_ns()).div_f64(target.speed);
        open.spawn(send(index, began + wall));
    }
    let mut records = Vec::with_capacity(trace.entries.len());
    let mut said = Instant::now();
    while let Some(ended) = open.join_next().await {
        let (index, record) = ended.context("a request panicked")?;
        records.push(record);
        for &(next, pause) in &followers[index] {
            open.spawn(send(next, Instant::now() + pause.div_f64(target.speed)));
        }
        if said.elapsed() > PROGRESS {
            said = Instant::now();
            report::say(&format!("  {} of {} requests", records.len(), trace.entries.len()));
        }
    }
    Ok(records)
}

async fn one(
    entry: &Entry,
    index: usize,
    foreign: Option<usize>,
    target: &Target,
    began: Instant,
) -> RequestRecord {
    let body = body(&entry.request, entry.output_tokens);
    let address = foreign.map_or(target.gateway, |pod| target.pods[pod]);
    let sent = Instant::now();
    let mut client = Client::new(address);
    let exchange = client.post_json("/v1/completions", &body);
    let outcome = tokio::time::timeout(target.client_timeout.div_f64(target.speed), exchange).await;
    let (outcome, ttft) = match outcome {
        Err(_) => (Outcome::TimedOut, None),
        Ok(Ok(response)) if response.status == 200 && response.done => (Outcome::Completed, response.ttft),
        Ok(Ok(response)) => (Outcome::Failed, response.ttft.filter(|_| response.status == 200)),
        Ok(Err(_)) => (Outcome::Failed, None),
    };
    let time = |at: Instant| Time::ZERO + (at - began).mul_f64(target.speed);
    RequestRecord {
        entry: index,
        foreign: foreign.is_some(),
        pod: foreign.unwrap_or_default(),
        sent_at: time(sent),
        first_byte_at: ttft.map(|ttft| time(sent + ttft)),
        ended_at: time(Instant::now()),
        outcome,
        prompt_tokens: entry.request.prompt_tokens,
        cached_tokens: 0,
        output_tokens: if outcome == Outcome::Completed { entry.output_tokens } else { 0 },
    }
}

/// The request with a text for each unit of the prompt: equal units have equal texts.
fn body(request: &Request, output_tokens: u32) -> String {
    let bytes = request.prompt_tokens as usize * BYTES_PER_TOKEN;
    let mut prompt = String::with_capacity(bytes + UNIT_TOKENS as usize * BYTES_PER_TOKEN);
    for unit in request.prompt.iter() {
        for _ in 0..UNIT_TOKENS as usize * BYTES_PER_TOKEN / 16 {
            let _ = write!(prompt, "{:016x}", unit.0);
        }
    }
    prompt.truncate(bytes);
    json!({
        "model": QWEN,
        "max_tokens": request.max_tokens.max(output_tokens),
        "stream": true,
        "vllm_xargs": { "output_tokens": output_tokens },
        "prompt": prompt,
    })
    .to_string()
}
