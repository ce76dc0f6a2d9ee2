//! Kernel counts compared with the exact counts of a simulated engine, on real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints its measurements and fails by panicking"
)]

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use forebay_agent_ebpf::maps::{EventKind, Load};
use forebay_e2e::{
    load::{self, Mix},
    pod::Bench,
};
use forebay_sim::{EngineOptions, Server, ServerOptions, TruthCounters};

const MODEL: &str = "Qwen/Qwen3-0.6B";

fn mix() -> Mix {
    Mix {
        requests: 600,
        aborts: 50,
        whole: 20,
        refused: 20,
        long_prompts: 6,
        long_prompt_bytes: 2 << 20,
        tokens: 20,
        users: 24,
        models: vec![MODEL.into()],
        time_limit: Duration::from_secs(60),
    }
}

/// Starts a simulator on the listener of the bench, which belongs to the pod.
fn serve(bench: &Bench) -> Server {
    let listener = bench.listener.try_clone().unwrap();
    listener.set_nonblocking(true).unwrap();
    let truth = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    truth.set_nonblocking(true).unwrap();
    let options = ServerOptions {
        engine: EngineOptions {
            max_num_seqs: 16,
            max_num_queued_reqs: None,
            max_model_len: 1 << 20,
            block_size: 16,
            num_gpu_blocks: 65_536,
            prefill_tokens_per_second: 10_000_000,
            token_interval: Duration::from_millis(3),
            steps: None,
        },
        models: vec![MODEL.into()],
        metrics_lag: Duration::from_millis(250),
        sse_keep_alive: Some(Duration::from_millis(20)),
        speed_file: None,
    };
    let from_std = |listener| tokio::net::TcpListener::from_std(listener).unwrap();
    Server::start(from_std(listener), from_std(truth), options).unwrap()
}

fn agree(load: &Load, truth: &TruthCounters) -> bool {
    (load.started, load.finished, load.aborted, load.in_flight)
        == (truth.started, truth.finished, truth.aborted, truth.in_flight)
}

/// Maximum time for which the counts may differ: the kernel sees a byte when it arrives, the server when it is scheduled.
const MAX_LAG: Duration = Duration::from_secs(1);

/// Compares after each change of the engine counts. Returns the number of equal comparisons.
fn compare(bench: &Bench, server: &Server, stopped: &AtomicBool) -> usize {
    let mut moments = 0;
    let mut compared = TruthCounters::default();
    while !stopped.load(Ordering::Acquire) {
        let truth = server.truth();
        if truth.started + truth.finished + truth.aborted
            == compared.started + compared.finished + compared.aborted
        {
            std::thread::yield_now();
            continue;
        }
        let since = Instant::now();
        loop {
            let load = bench.kernel.load_of(bench.slot()).unwrap();
            if agree(&load, &truth) {
                moments += 1;
                compared = truth;
                break;
            }
            if server.truth() != truth {
                break;
            }
            assert!(since.elapsed() < MAX_LAG, "kernel: {load:?}, engine: {truth:?}");
        }
    }
    moments
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_equal_during_and_after_the_load() {
    let Some(bench) = Bench::new("truth") else { return };
    let server = serve(&bench);
    let over = AtomicBool::new(false);
    let (ledger, moments) = std::thread::scope(|threads| {
        let comparing = threads.spawn(|| compare(&bench, &server, &over));
        let address = server.address();
        let ledger = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(load::run(address, &mix()))
        });
        over.store(true, Ordering::Release);
        (ledger, comparing.join().unwrap())
    });
    assert_eq!(ledger.failed, Vec::<String>::new());

    let mut load = Load::default();
    forebay_e2e::eventually("all requests have ended in both counts", || {
        load = bench.kernel.load_of(bench.slot()).unwrap();
        load.in_flight == 0 && agree(&load, &server.truth())
    });
    assert_eq!((load.started, load.finished, load.aborted), (600, 550, 50));
    assert_eq!((load.responses_4xx, load.lost_framing, load.opaque_connections), (20, 0, 0));
    assert_eq!(load.responses_2xx, server.truth().responses_2xx + ledger.aborted() as u64);
    assert!(
        ledger.outcomes.iter().filter(|(_, outcome)| outcome.reused).count() > 400,
        "connections were reused"
    );
    assert!(moments > 100, "only {moments} comparisons");
    println!(
        "600 requests (50 aborts, 20 whole, 20 refused, 6 of 2 MB): equal in {moments} comparisons and at the end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_ttft_matches_client_ttft() {
    let Some(mut bench) = Bench::new("ttft") else { return };
    let server = serve(&bench);
    let mix = Mix {
        requests: 300,
        aborts: 0,
        whole: 10,
        refused: 0,
        long_prompts: 0,
        long_prompt_bytes: 0,
        tokens: 6,
        users: 3,
        models: vec![MODEL.into()],
        time_limit: Duration::from_secs(30),
    };
    let ledger = load::run(server.address(), &mix).await;
    assert_eq!(ledger.failed, Vec::<String>::new());

    // Sorted by connection, then by time, on both sides.
    let mut kernel = HashMap::<u16, Vec<Duration>>::new();
    let mut seen = 0;
    while seen < 300 {
        bench
            .events
            .next(|event| {
                if EventKind::from_raw(event.kind) == Some(EventKind::FirstBody) {
                    kernel.entry(event.remote_port).or_default().push(Duration::from_nanos(event.ttft_ns));
                    seen += 1;
                }
            })
            .await
            .unwrap();
    }
    // The outcomes of a client are in request order.
    let mut asked = HashMap::<u16, usize>::new();
    let mut differences = Vec::new();
    for (_, outcome) in &ledger.outcomes {
        let index = asked.entry(outcome.port).or_default();
        differences.push(kernel[&outcome.port][*index].abs_diff(outcome.ttft.unwrap()));
        *index += 1;
    }
    differences.sort_unstable();
    let within = differences.iter().filter(|difference| **difference <= Duration::from_millis(1)).count();
    let share = within as f64 / differences.len() as f64;
    println!(
        "difference of kernel and client TTFT: p50 {:?}, p99 {:?}; {:.1} % within 1 ms",
        differences[differences.len() / 2],
        differences[differences.len() * 99 / 100],
        share * 100.0
    );
    assert!(share >= 0.99, "only {:.1} % within 1 ms", share * 100.0);
}
