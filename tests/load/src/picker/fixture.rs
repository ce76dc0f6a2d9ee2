//! A pool whose endpoints an agent has reported, and prompts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use forebay_epp::{
    Metrics,
    endpoints::Endpoints,
    schedule::{MAX_ENDPOINTS_PER_PICK, Prompt, Scheduler},
};
use forebay_resources::{ObjectKey, PoolEndpoint};
use forebay_telemetry::client::Received;
use forebay_telemetry::v1::{Endpoint, EndpointKey, EngineLoad, Frame, KernelLoad, Snapshot, frame::Body};

pub(crate) const NEVER_STALE: Duration = Duration::from_secs(3600);
/// Blocks of a prompt of 8,192 tokens of 4 bytes.
const PROMPT_BLOCKS: u64 = 8192 * 4 / Prompt::BLOCK_BYTES;

pub(crate) fn address(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 8000)
}

/// Loads with some equal values.
pub(crate) fn in_flight(n: u16) -> u64 {
    u64::from(n.wrapping_mul(7919) % 13)
}

pub(crate) fn scheduler(size: u16) -> Scheduler {
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
    endpoints.apply(agent, &Received { frame, at: Instant::now() });
    let pool = ObjectKey::new("llm-d", "qwen");
    Scheduler::new(pool, endpoints, Arc::default(), Metrics::new(), MAX_ENDPOINTS_PER_PICK)
}

/// A prompt of which the first half is the same for every `n`.
pub(crate) fn prompt(n: u64) -> Prompt {
    with_blocks(|at| if at < PROMPT_BLOCKS / 2 { at + 1 } else { n << 32 | at })
}

/// A prompt that shares nothing with those of other `n`.
pub(crate) fn unique_prompt(n: u64) -> Prompt {
    with_blocks(|at| (n + 1) << 20 | at)
}

fn with_blocks(block: impl Fn(u64) -> u64) -> Prompt {
    let bytes = PROMPT_BLOCKS * Prompt::BLOCK_BYTES;
    Prompt { blocks: (0..PROMPT_BLOCKS).map(block).collect(), bytes, body_bytes: bytes, is_streamed: true }
}
