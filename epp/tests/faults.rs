//! Faults while requests are open: the next pick still comes, and no pick stays in the load. Prints a table.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]
#![allow(clippy::print_stdout, reason = "the table is the result")]

mod common;

use std::time::Duration;

use common::{
    DEADLINE, Harness, POOL, address,
    agent::{FakeAgent, Reader, kernel},
    agent_ip, eventually,
    gateway::{Gateway, HttpRequest, headers, headers_before_body},
    pod, pod_at,
};
use forebay_epp::{PoolScope, endpoints::LoadSource};
use forebay_resources::ObjectKey;
use forebay_telemetry::v1::Delta;
use tokio::time::timeout;

const PODS: u8 = 3;
/// Requests in flight when the fault comes.
const OPEN: usize = 60;
const CANCELLED: usize = 10_000;
const HOUR_NS: i64 = 3_600_000_000_000;

/// A picker with an agent, and open requests.
struct Scene {
    harness: Harness,
    agent: FakeAgent,
    reader: Reader,
    gateway: Gateway,
    open: Vec<HttpRequest>,
    /// The gauge of open streams.
    streams: &'static str,
}

impl Scene {
    async fn new() -> Self {
        Self::start(None).await
    }

    /// With another pool, and pod 7 in it, in the same picker.
    async fn with_other_pool(pool: &str) -> Self {
        Self::start(Some(pool)).await
    }

    async fn start(other_pool: Option<&str>) -> Self {
        let mut agent = FakeAgent::start(agent_ip(1), 0).await;
        let mut manifests =
            vec![("pool.yaml".to_owned(), POOL.to_owned()), ("agent.yaml".to_owned(), agent.manifest())];
        if let Some(pool) = other_pool {
            manifests.push(("other.yaml".to_owned(), pool.to_owned()));
            manifests.push(("pod-7.yaml".to_owned(), pod_at("tiny-7", "uid-7", "tiny", "127.0.1.7", true)));
        }
        manifests.extend((1..=PODS).map(|n| (format!("pod-{n}.yaml"), pod(n, true))));
        let harness = Harness::start(&manifests, |options| {
            options.picker.agent_port = agent.address.port();
            options.picker.agent_heartbeat = Duration::from_millis(100);
            options.max_streams = 2 * CANCELLED as u32;
            if other_pool.is_some() {
                options.pools = PoolScope::All;
            }
        })
        .await;
        let mut reader = agent.reader().await;
        reader.snapshot((1..=PODS).chain([7]).map(|n| kernel(n, 0, 0)).collect(), vec![]);
        harness.until_endpoint(PODS, "the snapshot is in", |view| view.kernel_in_flight == Some(0)).await;
        let gateway = Gateway::connect_as(&harness, "qwen-epp.llm-d.svc").await;
        let streams = match other_pool {
            None => "forebay_epp_open_streams",
            Some(_) => r#"forebay_epp_open_streams{pool="llm-d/qwen"}"#,
        };
        let mut scene = Self { harness, agent, reader, gateway, open: Vec::new(), streams };
        scene.open(OPEN).await;
        scene
    }

    async fn open(&mut self, requests: usize) {
        for _ in 0..requests {
            self.open.push(self.gateway.pick().await.0);
        }
    }

    fn open_picks(&self) -> u64 {
        self.harness.endpoints().iter().map(|view| view.open_picks).sum()
    }

    /// A new request is decided. Ends all requests, and checks that none stays in the load.
    async fn check(&mut self, fault: &str) {
        let open = self.open_picks();
        let (request, picked) = timeout(DEADLINE, self.gateway.pick()).await.expect("a decision in time");
        self.open.push(request);
        assert!(self.harness.metric(self.streams).await >= 1.0, "{fault}");
        for mut request in self.open.drain(..) {
            request.finish();
            // A request may have been ended by the fault.
            let _ = request.ended().await;
        }
        self.harness.until(fault, |views| views.iter().all(|view| view.open_picks == 0)).await;
        let (left, streams) = (self.open_picks(), self.harness.metric(self.streams).await);
        assert_eq!(streams, 0.0, "{fault}");
        println!("{fault:<38} {open:>6} {:<18} {left:>4} {streams:>7}", picked[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_stops_picks_or_leaves_one_open() {
    println!(
        "{:<38} {:>6} {:<18} {:>4} {:>7}",
        "fault, with 60 requests in flight", "open", "next pick", "left", "streams"
    );
    agent_gone().await;
    clock_jumps().await;
    sequence_gap().await;
    pod_gone().await;
    pod_replaced().await;
    pool_removed().await;
    picker_killed().await;
    cancelled_at_once().await;
}

async fn agent_gone() {
    let mut scene = Scene::new().await;
    // Ends the stream of the first one.
    scene.agent = FakeAgent::start(agent_ip(9), 0).await;
    scene.harness.until_endpoint(1, "its counts are stale", |view| view.source == LoadSource::Local).await;
    scene.check("agent gone").await;
}

async fn clock_jumps() {
    for (fault, ns) in [("agent's clock an hour forward", HOUR_NS), ("agent's clock back to zero", i64::MIN)]
    {
        let mut scene = Scene::new().await;
        scene.reader.jump_clock(ns);
        let endpoints = vec![kernel(1, 50, 50)];
        scene.reader.delta(Delta { endpoints, ..Delta::default() });
        scene.reader.heartbeat();
        scene.harness.until_endpoint(1, fault, |view| view.kernel_in_flight == Some(50)).await;
        scene.check(fault).await;
    }
}

async fn sequence_gap() {
    let mut scene = Scene::new().await;
    scene.reader.skip_a_frame();
    scene.reader.heartbeat();
    scene.reader = scene.agent.reader().await;
    scene.reader.snapshot((1..=PODS).map(|n| kernel(n, 20, 20)).collect(), vec![]);
    scene.harness.until_endpoint(1, "a new snapshot", |view| view.kernel_in_flight == Some(20)).await;
    scene.check("sequence gap").await;
}

async fn pod_gone() {
    let mut scene = Scene::new().await;
    scene.harness.remove("pod-1.yaml");
    scene.harness.until("the pod is gone", |views| views.len() == usize::from(PODS) - 1).await;
    let (request, picked) = scene.gateway.pick().await;
    assert!(!picked.contains(&address(1).to_string()), "{picked:?}");
    scene.open.push(request);
    scene.check("pod gone").await;
}

async fn pod_replaced() {
    let mut scene = Scene::new().await;
    scene.harness.remove("pod-1.yaml");
    scene.harness.write("pod-9.yaml", &pod_at("vllm-9", "uid-9", "qwen", "127.0.1.1", true));
    let is_new = |pod: &str| pod.ends_with("vllm-9");
    let replaced = |view: &forebay_epp::endpoints::EndpointView| is_new(&view.endpoint.pod.to_string());
    scene.harness.until_endpoint(1, "the successor is a member", replaced).await;
    assert_eq!(scene.harness.endpoint(1).open_picks, 0, "requests of its predecessor are not its load");
    scene.open(9).await;
    scene.check("pod replaced under the same address").await;
}

/// Two pools share the stream of the agent.
async fn pool_removed() {
    let tiny = POOL.replace("qwen", "tiny");
    let mut scene = Scene::with_other_pool(&tiny).await;
    let tiny = || scene.harness.server.scheduler(&ObjectKey::new("llm-d", "tiny"));
    eventually("both read the agent", || {
        let agents = scene.harness.server.pools().agents().views();
        (agents[0].pools == 2).then_some(())
    })
    .await;
    scene.harness.remove("other.yaml");
    eventually("one pool is gone", || tiny().is_none().then_some(())).await;
    scene.reader.delta(Delta { endpoints: vec![kernel(1, 50, 50)], ..Delta::default() });
    let is_fresh = |view: &forebay_epp::endpoints::EndpointView| {
        view.kernel_in_flight == Some(50) && view.source == LoadSource::Kernel
    };
    scene.harness.until_endpoint(1, "the other pool has fresh data", is_fresh).await;
    assert!(scene.agent.no_reader_waits(), "on the same stream");
    scene.check("one of two pools of an agent removed").await;
}

async fn picker_killed() {
    let mut scene = Scene::new().await;
    // Waits for its body.
    let mut undecided = scene.gateway.open().await;
    undecided.send(headers_before_body(&[("content-length", "100")])).await;
    let Scene { harness, .. } = std::mem::replace(&mut scene, Scene::new().await);
    drop(harness);
    assert!(undecided.next().await.is_err(), "the gateway is told, so that it can ask another replica");
    scene.check("picker killed during a decision").await;
}

async fn cancelled_at_once() {
    let mut scene = Scene::new().await;
    let requests = futures_util::future::join_all((0..CANCELLED).map(|_| async {
        let request = scene.gateway.open().await;
        request.send(headers(true)).await;
        request
    }))
    .await;
    scene.open.extend(requests);
    scene.open.clear();
    scene.check("10,000 requests cancelled at once").await;
}
