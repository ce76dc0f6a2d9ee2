//! A fleet for tests: two nodes with four pods: one busy, one frozen, one on a throttled GPU, one that cannot be counted.

use std::time::{Duration, Instant};

use forebay_resources::ObjectKey;
use forebay_telemetry::{
    client::Received,
    v1::{
        Endpoint, EndpointKey, EndpointLatencies, EngineLoad, Frame, Gpu, GpuHealth, Histogram, KernelLoad,
        Latency, Liveness, LivenessReason, LivenessState, Model, Node, Snapshot, frame::Body,
    },
};

use crate::{
    fleet::{Fleet, History},
    scope::Scope,
    view::View,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Time for which the fleet was watched.
const WATCHED: u64 = 30;

pub(crate) struct Scene {
    pub(crate) view: View,
    history: History,
    base: Instant,
    second: u64,
}

/// The fleet after half a minute.
pub(crate) fn scene() -> Scene {
    let pod = |name: &str| ObjectKey::new("llm-d", name);
    let mut view = View::new(["10.1.0.1:9550".to_owned(), "10.1.0.2:9550".to_owned()]);
    view.scope = Scope::with_pools([
        (pod("qwen-0"), vec!["qwen".into()]),
        (pod("qwen-1"), vec!["qwen".into(), "spare".into()]),
        (pod("qwen-2"), vec!["qwen".into()]),
    ]);
    let mut scene = Scene { view, history: History::default(), base: Instant::now(), second: 0 };
    for _ in 0..WATCHED {
        scene.pass_a_second();
    }
    scene
}

impl Scene {
    /// Both agents send a snapshot, except those that are lost.
    pub(crate) fn pass_a_second(&mut self) {
        self.second += 1;
        for (at, snapshot) in [gpu_a(self.second), gpu_b(self.second)].into_iter().enumerate() {
            if self.view.agents[at].problem().is_none() {
                let body = Some(Body::Snapshot(snapshot));
                let frame = Frame { epoch: 1, seq: 1, sent_boottime_ns: boottime(self.second), body };
                self.view.take(at, &Received { frame, at: self.now() });
            }
        }
        self.history.sample(&self.view);
    }

    pub(crate) fn now(&self) -> Instant {
        self.base + Duration::from_secs(self.second)
    }

    pub(crate) fn fleet(&self) -> Fleet {
        Fleet::new(&self.view, &self.history, self.now())
    }
}

fn boottime(second: u64) -> u64 {
    (1_000 + second) * SECOND
}

fn gpu_a(second: u64) -> Snapshot {
    let busy = KernelLoad {
        in_flight: 8 + second % 5 * 4,
        requests_with_response: Some(6 + second % 5 * 4),
        oldest_request_boottime_ns: Some(boottime(second) - 4_200 * MS),
        ttft: latency(120, 140 * MS, 410 * MS, (600 + second % 7 * 50) * MS),
        itl: latency(48_000, 21 * MS, 34 * MS, 60 * MS),
        duration: latency(120, 2_300 * MS, 7_900 * MS, 11_000 * MS),
        ..counted(second)
    };
    let frozen = KernelLoad {
        in_flight: 5,
        requests_with_response: Some(0),
        oldest_request_boottime_ns: Some(boottime(second) - 95 * SECOND),
        ..counted(second)
    };
    let gpus = ["GPU-a0", "GPU-a1"];
    Snapshot {
        node: Some(Node { name: "gpu-a".into(), agent_version: "0.1.0".into(), ..Node::default() }),
        endpoints: vec![
            Endpoint {
                kernel: Some(busy),
                engine: Some(engine(second, "Qwen/Qwen3-0.6B", 2, 0.63)),
                gpu_uuids: gpus.map(str::to_owned).to_vec(),
                ..endpoint("qwen-0", 1)
            },
            Endpoint {
                kernel: Some(frozen),
                engine: Some(EngineLoad {
                    generation_tokens: 9_000,
                    ..engine(second, "Qwen/Qwen3-0.6B", 5, 0.91)
                }),
                liveness: liveness(LivenessState::Stalled, LivenessReason::NoProgress),
                ..endpoint("qwen-1", 2)
            },
        ],
        gpus: gpus.iter().zip(0..).map(|(uuid, index)| gpu(second, uuid, index)).collect(),
        latencies: vec![EndpointLatencies {
            key: endpoint("qwen-0", 1).key,
            ttft: histogram(&[
                (92, 4),
                (104, 21),
                (117, 38),
                (134, 14),
                (151, 9),
                (168, 6),
                (185, 0),
                (201, 5),
                (218, 4),
                (235, 0),
                (251, 3),
                (268, 4),
                (302, 5),
                (335, 1),
                (369, 1),
                (402, 0),
                (436, 2),
                (470, 1),
                (537, 0),
                (604, 2),
                (671, 0),
                (738, 0),
            ]),
            itl: histogram(&[
                (15, 20),
                (17, 2_400),
                (19, 14_180),
                (21, 19_200),
                (23, 7_600),
                (26, 2_100),
                (30, 1_300),
                (34, 700),
                (42, 350),
                (50, 140),
                (59, 10),
                (67, 0),
            ]),
            duration: histogram(&[(1_200, 12), (2_400, 57), (4_800, 41), (9_600, 10), (19_200, 0)]),
        }],
    }
}

fn gpu_b(second: u64) -> Snapshot {
    let slow = KernelLoad {
        in_flight: 2,
        requests_with_response: Some(2),
        oldest_request_boottime_ns: Some(boottime(second) - 900 * MS),
        ttft: latency(30, 300 * MS, 900 * MS, 1_500 * MS),
        itl: latency(6_000, 55 * MS, 80 * MS, 140 * MS),
        ..counted(second)
    };
    let throttled = Gpu {
        health: GpuHealth::Degraded.into(),
        health_reason: "throttled: hw_thermal_slowdown".into(),
        throttle_reasons: vec!["hw_thermal_slowdown".into()],
        sm_clock_mhz: Some(780),
        temperature_celsius: Some(91),
        ..gpu(second, "GPU-b0", 0)
    };
    Snapshot {
        node: Some(Node { name: "gpu-b".into(), agent_version: "0.1.0".into(), ..Node::default() }),
        endpoints: vec![
            Endpoint {
                kernel: Some(slow),
                engine: Some(engine(second, "mistralai/Mistral-7B", 0, 0.2)),
                gpu_uuids: vec!["GPU-b0".into()],
                ..endpoint("mistral-0", 3)
            },
            Endpoint {
                kernel_off: Some("2 connections use TLS, which cannot be counted".into()),
                engine_off: Some("connection refused".into()),
                liveness: None,
                ..endpoint("qwen-2", 4)
            },
        ],
        gpus: vec![throttled],
        ..Snapshot::default()
    }
}

fn endpoint(pod: &str, host: u32) -> Endpoint {
    let key = EndpointKey {
        namespace: "llm-d".into(),
        pod: pod.into(),
        uid: format!("uid-{host}"),
        ip: format!("10.0.0.{host}"),
        port: 8000,
    };
    let alive = liveness(LivenessState::Alive, LivenessReason::Unspecified);
    Endpoint { key: Some(key), liveness: alive, ..Endpoint::default() }
}

fn liveness(state: LivenessState, reason: LivenessReason) -> Option<Liveness> {
    Some(Liveness { state: state.into(), reason: reason.into(), since_boottime_ns: SECOND })
}

fn counted(second: u64) -> KernelLoad {
    KernelLoad {
        measured_boottime_ns: boottime(second) - 40 * MS,
        started: 1_000 + second * 3,
        finished: 990 + second * 3,
        aborted: 1,
        last_content_boottime_ns: Some(boottime(second) - 60 * MS),
        ..KernelLoad::default()
    }
}

fn engine(second: u64, model: &str, waiting: u32, kv_cache_usage: f64) -> EngineLoad {
    EngineLoad {
        measured_boottime_ns: boottime(second) - 400 * MS,
        running: 6,
        waiting,
        kv_cache_usage: Some(kv_cache_usage),
        generation_tokens: second * 850,
        prefix_cache_queries: second * 1_000,
        prefix_cache_hits: second * 620,
        models: vec![Model { id: model.into(), ..Model::default() }],
        ..EngineLoad::default()
    }
}

fn latency(count: u64, p50_ns: u64, p95_ns: u64, p99_ns: u64) -> Option<Latency> {
    Some(Latency { count, sum_ns: count * p50_ns, p50_ns, p95_ns, p99_ns })
}

/// Buckets by their lower bound in milliseconds. The last one is the bound of the others.
fn histogram(buckets: &[(u64, u64)]) -> Option<Histogram> {
    let (_, counted) = buckets.split_last()?;
    let bounds_ns = buckets.iter().map(|(from_ms, _)| from_ms * MS).collect();
    Some(Histogram { bounds_ns, counts: counted.iter().map(|(_, count)| *count).collect() })
}

fn gpu(second: u64, uuid: &str, index: u32) -> Gpu {
    Gpu {
        measured_boottime_ns: boottime(second) - 200 * MS,
        uuid: uuid.into(),
        index,
        name: "NVIDIA H100 80GB HBM3".into(),
        health: GpuHealth::Ok.into(),
        utilization_percent: Some(90 + index),
        memory_used_bytes: Some(60 << 30),
        memory_total_bytes: Some(80 << 30),
        temperature_celsius: Some(61),
        power_mw: Some(512_000),
        power_limit_mw: Some(700_000),
        sm_clock_mhz: Some(1_980),
        sm_clock_max_mhz: Some(1_980),
        ..Gpu::default()
    }
}
