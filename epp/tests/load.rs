//! Load from agents' reports and own picks, over real telemetry streams.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::time::Duration;

use common::{
    Harness, POOL,
    agent::{FakeAgent, MS, Reader, engine, gpu, kernel, key},
    agent_ip, eventually,
    gateway::{Gateway, error_code, headers, immediate},
    pod,
};
use forebay_epp::endpoints::{EndpointView, LoadSource};
use forebay_telemetry::v1::{Delta, Endpoint, Goodbye, GpuHealth, frame::Body};

/// A harness with `pods` pods and one agent whose stream is open.
async fn harness_with_agent(pods: u8) -> (Harness, FakeAgent, Reader) {
    harness_with_agent_and(pods, Duration::from_millis(500)).await
}

async fn harness_with_agent_and(pods: u8, heartbeat: Duration) -> (Harness, FakeAgent, Reader) {
    let mut agent = FakeAgent::start(agent_ip(1), 0).await;
    let mut manifests =
        vec![("pool.yaml".to_owned(), POOL.to_owned()), ("agent.yaml".to_owned(), agent.manifest())];
    manifests.extend((1..=pods).map(|n| (format!("pod-{n}.yaml"), pod(n, true))));
    let harness = Harness::start(&manifests, |options| {
        options.picker.agent_port = agent.address.port();
        options.picker.agent_heartbeat = heartbeat;
    })
    .await;
    let reader = agent.reader().await;
    (harness, agent, reader)
}

/// A heartbeat longer than any test.
const LONG_HEARTBEAT: Duration = Duration::from_secs(60);

fn by_kernel(in_flight: u64) -> impl Fn(&EndpointView) -> bool {
    move |view| view.source == LoadSource::Kernel && view.kernel_in_flight == Some(in_flight)
}

#[tokio::test]
async fn kernel_counts_the_requests_of_all_gateways() {
    let (harness, _agent, mut agent) = harness_with_agent_and(3, LONG_HEARTBEAT).await;
    assert_eq!(agent.request.heartbeat_ms, 60_000);
    agent.snapshot(vec![kernel(1, 5, 9), kernel(2, 0, 4), kernel(3, 2, 2)], vec![]);
    harness.until_endpoint(3, "the snapshot is in", by_kernel(2)).await;
    let gateway = Gateway::connect(&harness).await;
    let (_first, picked) = gateway.pick().await;
    assert_eq!(picked, ["127.0.1.2:8000", "127.0.1.3:8000", "127.0.1.1:8000"]);

    agent.delta(Delta { endpoints: vec![kernel(1, 0, 9)], ..Delta::default() });
    harness.until_endpoint(1, "the delta is in", by_kernel(0)).await;
    assert_eq!(gateway.pick().await.1[0], "127.0.1.1:8000");
    assert_eq!(
        harness.metric("forebay_epp_load_age_at_pick_seconds_count").await,
        2.0,
        "the count of each picked endpoint, once"
    );
    assert_eq!(harness.metric(r#"forebay_epp_endpoints{state="kernel"}"#).await, 3.0);
}

#[tokio::test]
async fn exports_means_and_queues_under_the_names_of_other_pickers() {
    let (harness, _agent, mut agent) = harness_with_agent_and(3, LONG_HEARTBEAT).await;
    let report = |n, running, waiting, kv_cache_usage| {
        let mut report = engine(n, running, waiting, 0);
        report.engine.as_mut().unwrap().kv_cache_usage = kv_cache_usage;
        report
    };
    // The third engine does not report, and the second not its cache.
    agent.snapshot(vec![report(1, 4, 1, Some(0.5)), report(2, 2, 2, None)], vec![]);
    harness.until_endpoint(2, "the snapshot is in", |view| view.engine_waiting == Some(2)).await;
    let (_stream, _) = Gateway::connect(&harness).await.pick().await;
    for (series, value) in [
        ("average_kv_cache_utilization{name=\"qwen\"}", 0.5),
        ("average_queue_size{name=\"qwen\"}", 1.5),
        ("average_running_requests{name=\"qwen\"}", 3.0),
    ] {
        assert_eq!(harness.metric(&format!("llm_d_epp_{series}")).await, value, "{series}");
        assert_eq!(harness.metric(&format!("inference_pool_{series}")).await, value, "{series}");
    }
    for (series, value) in [
        ("llm_d_epp_ready_endpoints{name=\"qwen\"}", 3.0),
        ("inference_pool_ready_pods{name=\"qwen\"}", 3.0),
        ("llm_d_epp_per_endpoint_queue_size{name=\"qwen\",model_server_endpoint=\"vllm-2-rank-0\"}", 2.0),
        ("inference_pool_per_pod_queue_size{name=\"qwen\",model_server_pod=\"vllm-2-rank-0\"}", 2.0),
        ("llm_d_epp_scheduler_attempts_total{name=\"qwen\",status=\"success\"}", 1.0),
        ("inference_extension_scheduler_attempts_total{name=\"qwen\",status=\"failure\"}", 0.0),
        ("llm_d_epp_scheduler_e2e_duration_seconds_count{name=\"qwen\"}", 1.0),
        ("inference_extension_scheduler_e2e_duration_seconds_count{name=\"qwen\"}", 1.0),
        ("llm_d_epp_extproc_streams_inflight{name=\"qwen\"}", 1.0),
    ] {
        assert_eq!(harness.metric(series).await, value, "{series}");
    }
    let (_, text) = harness.get("/metrics").await;
    assert!(!text.contains("vllm-3-rank"), "the queue of an engine that does not report is not 0");
}

#[tokio::test]
async fn adds_a_pick_until_the_kernel_has_counted_it() {
    let (harness, _agent, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    agent.snapshot(vec![kernel(1, 3, 10)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(3)).await;
    let (_one, _) = Gateway::connect(&harness).await.pick().await;
    let (_two, _) = Gateway::connect(&harness).await.pick().await;
    assert_eq!((harness.endpoint(1).load, harness.endpoint(1).picks_not_in_kernel), (5, 2));

    // One request has arrived. Measured now, after the picks.
    let mut report = kernel(1, 4, 11);
    report.kernel.as_mut().unwrap().measured_boottime_ns += MS;
    agent.delta(Delta { endpoints: vec![report], ..Delta::default() });
    harness.until_endpoint(1, "one has arrived", by_kernel(4)).await;
    assert_eq!((harness.endpoint(1).load, harness.endpoint(1).picks_not_in_kernel), (5, 1));
    assert_eq!(harness.endpoint(1).open_picks, 2, "the picks are still open");
}

/// The kernel may not see the pod's sockets, so a pick counts until its request ends.
#[tokio::test]
async fn a_pick_that_the_kernel_never_counts_stays_in_the_load() {
    let (harness, _agent, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    agent.snapshot(vec![kernel(1, 0, 0)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(0)).await;
    let (open, _) = Gateway::connect(&harness).await.pick().await;
    assert_eq!(harness.endpoint(1).load, 1);
    // Each heartbeat confirms the unchanged count at a later time.
    let deadline = tokio::time::Instant::now() + common::DEADLINE;
    while harness.endpoint(1).picks_not_in_kernel != 0 {
        assert!(tokio::time::Instant::now() < deadline, "the count is not confirmed");
        agent.heartbeat();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((harness.endpoint(1).load, harness.endpoint(1).open_picks), (1, 1));
    drop(open);
    harness.until_endpoint(1, "the request has ended", |view| view.load == 0).await;
}

#[tokio::test]
async fn silent_agent_is_replaced_by_local_counts() {
    let (harness, mut server, mut agent) = harness_with_agent_and(2, Duration::from_millis(50)).await;
    agent.snapshot(vec![kernel(1, 9, 9), kernel(2, 0, 0)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", |view| view.kernel_in_flight == Some(9)).await;
    harness.until_endpoint(1, "the count is stale", |view| view.source == LoadSource::Local).await;
    let gateway = Gateway::connect(&harness).await;
    let (_one, first) = gateway.pick().await;
    let (_two, second) = gateway.pick().await;
    assert_ne!(first[0], second[0], "the stale count is not used");

    // The silent stream was closed. The next one starts with a snapshot.
    let mut again = server.reader().await;
    again.snapshot(vec![kernel(1, 9, 9), kernel(2, 0, 0)], vec![]);
    eventually("the count is back", || {
        again.heartbeat();
        (harness.endpoint(1).source == LoadSource::Kernel).then_some(())
    })
    .await;
}

#[tokio::test]
async fn heartbeats_keep_unchanged_counts_fresh() {
    let (harness, _server, mut agent) = harness_with_agent_and(2, Duration::from_millis(100)).await;
    let connected = format!(r#"forebay_epp_agent_connected{{agent="{}"}}"#, _server.address);
    agent.snapshot(vec![kernel(1, 9, 9), kernel(2, 0, 0)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(9)).await;
    // Twice the time after which counts are stale. A delta about one endpoint also confirms the other one.
    let until = tokio::time::Instant::now() + Duration::from_millis(600);
    let mut turn = 0;
    while tokio::time::Instant::now() < until {
        match turn % 2 {
            0 => agent.heartbeat(),
            _ => agent.delta(Delta { endpoints: vec![kernel(2, 0, 0)], ..Delta::default() }),
        }
        turn += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    harness
        .until_endpoint(1, "still known", |view| view.source == LoadSource::Kernel && view.load == 9)
        .await;
    assert_eq!(harness.metric(&connected).await, 1.0);
}

#[tokio::test]
async fn gap_closes_the_stream_and_a_snapshot_follows() {
    let (harness, mut server, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    agent.snapshot(vec![kernel(1, 1, 1)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(1)).await;
    agent.skip_a_frame();
    agent.delta(Delta { endpoints: vec![kernel(1, 7, 7)], ..Delta::default() });
    let mut again = server.reader().await;
    assert_eq!(harness.endpoint(1).kernel_in_flight, Some(1), "frames after the gap are not used");
    again.snapshot(vec![kernel(1, 8, 8)], vec![]);
    harness.until_endpoint(1, "the new snapshot is in", by_kernel(8)).await;
}

#[tokio::test]
async fn epoch_change_closes_the_stream() {
    let (harness, mut server, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    agent.snapshot(vec![kernel(1, 1, 1)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(1)).await;
    let mut agent = agent.in_epoch(2);
    agent.delta(Delta { endpoints: vec![kernel(1, 7, 7)], ..Delta::default() });
    server.reader().await;
    assert_eq!(harness.endpoint(1).kernel_in_flight, Some(1));
}

/// A restarted agent has not counted the requests that started before.
#[tokio::test]
async fn agent_restart_keeps_open_requests_in_the_load() {
    let (harness, mut server, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    agent.snapshot(vec![kernel(1, 0, 10)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(0)).await;
    let (before, _) = Gateway::connect(&harness).await.pick().await;
    let mut report = kernel(1, 1, 11);
    report.kernel.as_mut().unwrap().measured_boottime_ns += MS;
    agent.delta(Delta { endpoints: vec![report], ..Delta::default() });
    harness.until_endpoint(1, "it has arrived", |view| view.load == 1 && view.picks_not_in_kernel == 0).await;

    agent.send(Body::Goodbye(Goodbye { reason: "restart".into() }));
    let mut restarted = server.reader().await.in_epoch(2);
    restarted.snapshot(vec![kernel(1, 0, 0)], vec![]);
    harness.until_endpoint(1, "the new epoch is applied", by_kernel(0)).await;
    assert_eq!(harness.endpoint(1).load, 1, "the request is still open");
    drop(before);
    harness.until_endpoint(1, "the request has ended", |view| view.load == 0).await;
}

#[tokio::test]
async fn reconnects_to_an_agent_that_failed() {
    let (harness, server, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    let address = server.address;
    agent.snapshot(vec![kernel(1, 4, 4)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(4)).await;
    drop((server, agent));
    let agents = || harness.server.pools().agents().views();
    eventually("it is down", || (!agents()[0].connected).then_some(())).await;
    assert!(Gateway::connect(&harness).await.pick().await.1[0].starts_with("127.0.1.1"), "picks continue");

    let mut server = FakeAgent::start(address.ip(), address.port()).await;
    server.reader().await.snapshot(vec![kernel(1, 6, 6)], vec![]);
    harness.until_endpoint(1, "it is back", by_kernel(6)).await;
}

#[tokio::test]
async fn follows_the_agents_of_the_store() {
    let mut first = FakeAgent::start(agent_ip(11), 0).await;
    let mut second = FakeAgent::start(agent_ip(12), first.address.port()).await;
    let manifests = [("pool.yaml".to_owned(), POOL.to_owned()), ("a.yaml".to_owned(), first.manifest())];
    let port = first.address.port();
    let harness = Harness::start(&manifests, |options| options.picker.agent_port = port).await;
    first.reader().await;
    harness.write("b.yaml", &second.manifest());
    second.reader().await;
    harness.remove("a.yaml");
    let agents = || harness.server.pools().agents().views();
    eventually("one is gone", || (agents().len() == 1).then_some(())).await;
    assert_eq!(agents()[0].address, second.address);
}

#[tokio::test]
async fn without_kernel_counts_engine_gauges_are_used() {
    let (harness, _server, mut agent) = harness_with_agent_and(3, LONG_HEARTBEAT).await;
    agent.snapshot(vec![engine(1, 4, 0, MS), engine(2, 2, 1, MS), engine(3, 1, 0, 60_000 * MS)], vec![]);
    harness.until_endpoint(2, "the snapshot is in", |view| view.source == LoadSource::Engine).await;
    let (one, two, three) = (harness.endpoint(1), harness.endpoint(2), harness.endpoint(3));
    assert_eq!((one.load, two.load), (4, 3));
    assert_eq!((three.load, three.source), (0, LoadSource::Local), "gauges of a minute ago are stale");
    let gateway = Gateway::connect(&harness).await;
    let (_open, picked) = gateway.pick().await;
    assert_eq!(picked[0], "127.0.1.3:8000");
    let (_open, _) = gateway.pick().await;
    // Own picks are added: the gauges contain requests of others only.
    let loads: u64 = harness.endpoints().iter().map(|view| view.load).sum();
    assert_eq!(loads, 4 + 3 + 2);
}

#[tokio::test]
async fn prompts_that_wait_count_more_than_responses_in_flight() {
    let (harness, _server, mut agent) = harness_with_agent_and(2, LONG_HEARTBEAT).await;
    let mut waiting = kernel(1, 3, 3);
    waiting.kernel.as_mut().unwrap().waiting_request_bytes = 3 * 100_000;
    agent.snapshot(vec![waiting, kernel(2, 5, 5)], vec![]);
    harness.until_endpoint(2, "the snapshot is in", by_kernel(5)).await;
    let (one, two) = (harness.endpoint(1), harness.endpoint(2));
    assert_eq!((one.load, two.load), (3, 5));
    assert!(one.added_waiting > two.added_waiting, "{} and {}", one.added_waiting, two.added_waiting);
    assert_eq!(Gateway::connect(&harness).await.pick().await.1[0], "127.0.1.2:8000");
}

#[tokio::test]
async fn a_kernel_that_does_not_see_a_working_engine_is_not_believed() {
    let (harness, _server, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    let working = |ms| Endpoint { engine: engine(1, 40, 0, ms * MS).engine, ..kernel(1, 0, 0) };
    agent.snapshot(vec![working(4_900)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", |view| view.engine_running == Some(40)).await;
    assert_eq!((harness.endpoint(1).source, harness.endpoint(1).load), (LoadSource::Kernel, 0));
    agent.delta(Delta { endpoints: vec![working(1)], ..Delta::default() });
    harness.until_endpoint(1, "the engine is believed", |view| view.source == LoadSource::Engine).await;
    assert_eq!(harness.endpoint(1).load, 40);
    // Longer than the time between two looks at the endpoint.
    let old = Some(Duration::from_millis(300));
    harness.until_endpoint(1, "the kernel's count is old", |view| view.kernel_age > old).await;
    agent.heartbeat();
    harness.until_endpoint(1, "the kernel's count is confirmed", |view| view.kernel_age < old).await;
    assert_eq!(harness.endpoint(1).load, 40, "a confirmed count is not believed either");

    agent.delta(Delta { endpoints: vec![kernel(1, 0, 1)], ..Delta::default() });
    harness.until_endpoint(1, "the kernel's next count is in", |view| view.engine_running.is_none()).await;
    assert_eq!(
        harness.endpoint(1).source,
        LoadSource::Kernel,
        "without the engine nothing contradicts the kernel"
    );
}

#[tokio::test]
async fn pod_with_a_lost_gpu_is_not_picked_until_the_gpu_is_back() {
    let (harness, _server, mut agent) = harness_with_agent_and(2, LONG_HEARTBEAT).await;
    let on_gpu = |n: u8, uuid: &str| Endpoint { gpu_uuids: vec![uuid.into()], ..kernel(n, u64::from(n), 9) };
    agent.snapshot(
        vec![on_gpu(1, "gpu-a"), on_gpu(2, "gpu-b")],
        vec![gpu("gpu-a", GpuHealth::Ok), gpu("gpu-b", GpuHealth::Degraded)],
    );
    harness.until_endpoint(2, "the snapshot is in", by_kernel(2)).await;
    let gateway = Gateway::connect(&harness).await;
    assert_eq!(gateway.pick_and_end().await, "127.0.1.1:8000");

    agent.delta(Delta { gpus: vec![gpu("gpu-a", GpuHealth::Lost)], ..Delta::default() });
    harness.until_endpoint(1, "its GPU is lost", |view| view.gpu_lost).await;
    assert_eq!(gateway.pick().await.1, ["127.0.1.2:8000"], "not as a fallback either");
    assert_eq!(harness.metric(r#"forebay_epp_endpoints{state="gpu_lost"}"#).await, 1.0);

    agent.delta(Delta { gpus: vec![gpu("gpu-b", GpuHealth::Lost)], ..Delta::default() });
    harness.until_endpoint(2, "both are lost", |view| view.gpu_lost).await;
    let mut request = gateway.open().await;
    request.send(headers(false)).await;
    assert_eq!(error_code(immediate(&request.reply().await)), "gpus_lost");

    agent.delta(Delta { gpus: vec![gpu("gpu-a", GpuHealth::Ok)], ..Delta::default() });
    harness.until_endpoint(1, "it is back", |view| !view.gpu_lost).await;
    assert_eq!(gateway.pick_and_end().await, "127.0.1.1:8000");
}

#[tokio::test]
async fn lost_gpu_report_of_a_failed_agent_expires() {
    let (harness, server, mut agent) = harness_with_agent_and(1, Duration::from_millis(100)).await;
    let on_gpu = Endpoint { gpu_uuids: vec!["gpu-a".into()], ..kernel(1, 0, 0) };
    agent.snapshot(vec![on_gpu], vec![gpu("gpu-a", GpuHealth::Lost)]);
    harness.until_endpoint(1, "its GPU is lost", |view| view.gpu_lost).await;
    drop((server, agent));
    harness.until_endpoint(1, "the report has expired", |view| !view.gpu_lost).await;
}

#[tokio::test]
async fn new_member_has_the_load_reported_before() {
    let (harness, _server, mut agent) = harness_with_agent_and(1, LONG_HEARTBEAT).await;
    agent.snapshot(vec![kernel(1, 1, 1), kernel(2, 6, 6)], vec![]);
    harness.until_endpoint(1, "the snapshot is in", by_kernel(1)).await;
    harness.write("pod-2.yaml", &pod(2, true));
    harness.until_endpoint(2, "it is a member", by_kernel(6)).await;
}

#[tokio::test]
async fn endpoint_removed_by_its_agent_is_counted_locally() {
    let (harness, _server, mut agent) = harness_with_agent_and(2, LONG_HEARTBEAT).await;
    agent.snapshot(vec![kernel(1, 1, 1), kernel(2, 6, 6)], vec![]);
    harness.until_endpoint(2, "the snapshot is in", by_kernel(6)).await;
    agent.delta(Delta { removed_endpoints: vec![key(2)], ..Delta::default() });
    harness
        .until_endpoint(2, "it is removed", |view| view.source == LoadSource::Local && view.load == 0)
        .await;
}

#[tokio::test]
async fn a_report_about_another_pod_of_the_same_address_is_not_used() {
    let (harness, _server, mut agent) = harness_with_agent_and(2, LONG_HEARTBEAT).await;
    let mut earlier = kernel(1, 9, 9);
    earlier.key.as_mut().unwrap().uid = "uid-of-an-earlier-pod".into();
    agent.snapshot(vec![earlier, kernel(2, 6, 6)], vec![]);
    harness.until_endpoint(2, "the snapshot is in", by_kernel(6)).await;
    assert_eq!(harness.endpoint(1).source, LoadSource::Local);
}

#[tokio::test]
async fn successor_at_the_same_address_keeps_the_load_of_the_same_delta() {
    let (harness, _server, mut agent) = harness_with_agent_and(2, LONG_HEARTBEAT).await;
    let mut earlier = kernel(1, 9, 9);
    earlier.key.as_mut().unwrap().uid = "uid-of-an-earlier-pod".into();
    let removed = earlier.key.clone().unwrap();
    agent.snapshot(vec![earlier, kernel(2, 6, 6)], vec![]);
    harness.until_endpoint(2, "the snapshot is in", by_kernel(6)).await;
    let endpoints = vec![kernel(1, 4, 4), kernel(2, 7, 7)];
    agent.delta(Delta { endpoints, removed_endpoints: vec![removed], ..Delta::default() });
    harness.until_endpoint(2, "the delta is in", by_kernel(7)).await;
    assert_eq!(harness.endpoint(1).kernel_in_flight, Some(4));
}

#[tokio::test]
async fn ignores_invalid_reports() {
    let (harness, _server, mut agent) = harness_with_agent(2).await;
    let mut no_address = kernel(1, 1, 1);
    no_address.key.as_mut().unwrap().ip = "not an address".into();
    let mut no_port = kernel(1, 1, 1);
    no_port.key.as_mut().unwrap().port = 70_000;
    let endless = kernel(2, u64::MAX, u64::MAX);
    let mut future = kernel(1, 2, 2);
    future.kernel.as_mut().unwrap().measured_boottime_ns = u64::MAX;
    agent.snapshot(vec![no_address, no_port, Endpoint::default(), endless, future], vec![]);
    harness.until_endpoint(2, "the snapshot is in", |view| view.kernel_in_flight == Some(u64::MAX)).await;
    let gateway = Gateway::connect(&harness).await;
    for _ in 0..3 {
        assert_eq!(gateway.pick_and_end().await, "127.0.1.1:8000");
    }
}
