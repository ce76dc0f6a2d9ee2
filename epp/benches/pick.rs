//! Time of a pick and its release, in pools of 100, 1,000 and 10,000 endpoints, without and with a prompt of 8,192 tokens whose
//! first half all endpoints have in their caches. Compared with a naive implementation: one lock per endpoint, all scores
//! collected and sorted, no prompts.

#![allow(clippy::unwrap_used, reason = "a benchmark's fixture")]

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use forebay_epp::{
    Metrics,
    endpoints::Endpoints,
    schedule::{MAX_ENDPOINTS_PER_PICK, PickRequest, Prompt, Scheduler},
};
use forebay_resources::{ObjectKey, PoolEndpoint};
use forebay_telemetry::client::Received;
use forebay_telemetry::v1::{Endpoint, EndpointKey, EngineLoad, Frame, KernelLoad, Snapshot, frame::Body};

const SIZES: [u16; 3] = [100, 1000, 10_000];
/// Blocks of a prompt of 8,192 tokens of 4 bytes.
const PROMPT_BLOCKS: u64 = 8192 * 4 / Prompt::BLOCK_BYTES;
const NEVER_STALE: Duration = Duration::from_secs(3600);

fn address(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 8000)
}

/// Loads with some equal values.
fn in_flight(n: u16) -> u64 {
    u64::from(n.wrapping_mul(7919) % 13)
}

fn scheduler(size: u16) -> Scheduler {
    let endpoints = Arc::new(Endpoints::new(NEVER_STALE));
    let member = |n| PoolEndpoint {
        pod: ObjectKey::new("llm-d", format!("vllm-{n}")),
        uid: String::new(),
        address: address(n),
        node_name: None,
        labels: [].into(),
    };
    endpoints.set_members(Some((0..size).map(member).collect()));
    let report = |n| Endpoint {
        key: Some(EndpointKey { ip: address(n).ip().to_string(), port: 8000, ..EndpointKey::default() }),
        kernel: Some(KernelLoad {
            in_flight: in_flight(n),
            measured_boottime_ns: 1,
            ..KernelLoad::default()
        }),
        engine: Some(EngineLoad { waiting: 1, measured_boottime_ns: 1, ..EngineLoad::default() }),
        ..Endpoint::default()
    };
    let snapshot = Snapshot { endpoints: (0..size).map(report).collect(), ..Snapshot::default() };
    let frame = Frame { epoch: 1, seq: 1, sent_boottime_ns: 1, body: Some(Body::Snapshot(snapshot)) };
    let agent = SocketAddr::from(([10, 1, 0, 0], 9550));
    endpoints.add_agent(agent);
    endpoints.apply(agent, &Received { frame, at: Instant::now() });
    Scheduler::new(
        ObjectKey::new("llm-d", "qwen"),
        endpoints,
        Arc::default(),
        Metrics::new(),
        MAX_ENDPOINTS_PER_PICK,
    )
}

/// A prompt of which the first half is the same for every `n`.
fn prompt(n: u64) -> Prompt {
    let block = |at: u64| if at < PROMPT_BLOCKS / 2 { at + 1 } else { n << 32 | at };
    Prompt {
        blocks: (0..PROMPT_BLOCKS).map(block).collect(),
        bytes: PROMPT_BLOCKS * Prompt::BLOCK_BYTES,
        body_bytes: PROMPT_BLOCKS * Prompt::BLOCK_BYTES,
        is_streamed: true,
    }
}

struct NaiveEndpoint {
    address: String,
    load: Mutex<NaiveLoad>,
}

struct NaiveLoad {
    in_flight: u64,
    waiting: u64,
    picks: u64,
    measured: Instant,
}

fn naive_endpoints(size: u16) -> Vec<Arc<NaiveEndpoint>> {
    let endpoint = |n| {
        let load = NaiveLoad { in_flight: in_flight(n), waiting: 1, picks: 0, measured: Instant::now() };
        Arc::new(NaiveEndpoint { address: address(n).to_string(), load: Mutex::new(load) })
    };
    (0..size).map(endpoint).collect()
}

fn naive_pick(endpoints: &[Arc<NaiveEndpoint>]) -> String {
    let now = Instant::now();
    let mut scored: Vec<(u64, u32, Arc<NaiveEndpoint>)> = endpoints
        .iter()
        .map(|endpoint| {
            let load = endpoint.load.lock().unwrap();
            let fresh = now.duration_since(load.measured) < NEVER_STALE;
            let score = if fresh { load.in_flight + load.picks + load.waiting } else { load.picks };
            (score, fastrand::u32(..), endpoint.clone())
        })
        .collect();
    scored.sort_by_key(|(score, tie, _)| (*score, *tie));
    scored[0].2.load.lock().unwrap().picks += 1;
    let addresses: Vec<&str> =
        scored.iter().take(3).map(|(_, _, endpoint)| endpoint.address.as_str()).collect();
    let destination = addresses.join(",");
    scored[0].2.load.lock().unwrap().picks -= 1;
    destination
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for size in SIZES {
        let scheduler = scheduler(size);
        group.bench_function(BenchmarkId::new("forebay", size), |bencher| {
            let request = PickRequest { takes_list: true, ..PickRequest::default() };
            bencher.iter(|| black_box(scheduler.pick(&request).unwrap().destination()));
        });
        let prompts: Vec<Prompt> = (1..=64).map(prompt).collect();
        // Every endpoint gets the first half at least once.
        for n in 0..u64::from(size) * 4 {
            let request = PickRequest { prompt: Some(&prompts[n as usize % 64]), ..PickRequest::default() };
            std::mem::forget(scheduler.pick(&request));
        }
        group.bench_function(BenchmarkId::new("forebay_prompt", size), |bencher| {
            let mut n = 0;
            bencher.iter(|| {
                n += 1;
                let request = PickRequest {
                    takes_list: true,
                    prompt: Some(&prompts[n % prompts.len()]),
                    ..PickRequest::default()
                };
                black_box(scheduler.pick(&request).unwrap().destination())
            });
        });
        let endpoints = naive_endpoints(size);
        group.bench_function(BenchmarkId::new("naive", size), |bencher| {
            bencher.iter(|| black_box(naive_pick(&endpoints)));
        });
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
