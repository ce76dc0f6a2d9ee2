//! Probes over gRPC and HTTP, the pages `/endpoints` and `/debug/picks`, start and shutdown.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use common::{DEADLINE, Harness, POOL, gateway::Gateway, pod};
use forebay_epp::{Error, Server};
use forebay_resources::{ObjectKey, ResourceSource};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const READINESS: [&str; 4] =
    ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension"];

async fn client(harness: &Harness) -> HealthClient<Channel> {
    let address = format!("http://{}", harness.server.health_address);
    HealthClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
}

async fn status(harness: &Harness, service: &str) -> ServingStatus {
    let mut client = client(harness).await;
    client.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner().status()
}

/// Waits until the service has the status.
async fn until_status(harness: &Harness, service: &str, wanted: ServingStatus) {
    let mut client = client(harness).await;
    let request = HealthCheckRequest { service: service.into() };
    let mut statuses = client.watch(request).await.unwrap().into_inner();
    let watching = async { while statuses.message().await.unwrap().unwrap().status() != wanted {} };
    tokio::time::timeout(DEADLINE, watching).await.expect("the status in time");
}

#[tokio::test]
async fn ready_while_the_pool_exists_and_always_live() {
    let harness = Harness::start(&[("pod-1.yaml".into(), pod(1, true))], |_| {}).await;
    for service in READINESS {
        assert_eq!(status(&harness, service).await, ServingStatus::NotServing, "{service:?}");
    }
    assert_eq!(status(&harness, "liveness").await, ServingStatus::Serving);
    assert_eq!(harness.get("/readyz").await, (503, "InferencePool llm-d/qwen is not loaded\n".into()));
    assert_eq!(harness.get("/healthz").await.0, 200);

    harness.write("pool.yaml", POOL);
    for service in READINESS {
        until_status(&harness, service, ServingStatus::Serving).await;
    }
    assert_eq!(harness.get("/readyz").await.0, 200);

    harness.remove("pool.yaml");
    for service in READINESS {
        until_status(&harness, service, ServingStatus::NotServing).await;
    }
    assert_eq!(status(&harness, "liveness").await, ServingStatus::Serving);
}

#[tokio::test]
async fn unknown_service_is_not_found() {
    let harness = Harness::with_pods(1).await;
    let mut client = client(&harness).await;
    let error = client.check(HealthCheckRequest { service: "other".into() }).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn endpoints_page_shows_load_and_source() {
    let harness = Harness::with_pods(1).await;
    let (_open, _) = Gateway::connect(&harness).await.pick().await;
    let (status, body) = harness.get("/endpoints").await;
    assert_eq!(status, 200);
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["pool"], "llm-d/qwen");
    let endpoint = &page["endpoints"][0];
    assert_eq!(endpoint["address"], "127.0.1.1:8000");
    assert_eq!(endpoint["pod"], "llm-d/vllm-1");
    assert_eq!((&endpoint["load"], &endpoint["source"]), (&1.into(), &"local".into()));
    assert_eq!(endpoint["kernel"]["age_ms"], serde_json::Value::Null);
    assert_eq!(harness.metric(r#"forebay_epp_picks_total{result="ok"}"#).await, 1.0);
    assert_eq!(harness.metric("forebay_epp_pick_duration_seconds_count").await, 1.0);
    assert_eq!(harness.get("/elsewhere").await.0, 404);
}

#[tokio::test]
async fn page_of_recent_picks_has_every_score() {
    let harness = Harness::with_pods(2).await;
    let (_open, picked) = Gateway::connect(&harness).await.pick().await;
    let (status, body) = harness.get("/debug/picks").await;
    assert_eq!(status, 200);
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    let pick = &page["picks"][0];
    assert_eq!(pick["picked"], serde_json::json!(picked));
    assert_eq!(pick["scorers"][0]["name"], "added-waiting-scorer");
    let endpoints = pick["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2);
    assert!(endpoints.iter().all(|it| it["scores"][0].as_f64() > Some(0.0)), "{pick:#}");
}

#[tokio::test]
async fn shutdown_waits_for_requests_in_flight() {
    let harness = Harness::with_pods(1).await;
    let (mut request, _) = Gateway::connect(&harness).await.pick().await;
    let address = harness.server.grpc_address;
    let Harness { server, .. } = harness;
    let shutdown = tokio::spawn(server.shutdown());
    let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, refused).await.expect("no new connections");
    assert!(!shutdown.is_finished());
    request.finish();
    request.ended().await.unwrap();
    tokio::time::timeout(DEADLINE, shutdown).await.expect("the end in time").unwrap();
}

#[tokio::test]
async fn start_reports_invalid_options() {
    let harness = Harness::with_pods(1).await;
    let options = |adjust: fn(&mut forebay_epp::ServerOptions)| {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = forebay_epp::ServerOptions {
            resources: ResourceSource::Folder("/nowhere".into()),
            pools: ObjectKey::new("a", "b").into(),
            grpc_listen: vec![any],
            tls: None,
            health_listen: any,
            http_listen: any,
            picker: forebay_epp::PickerOptions::default(),
            max_message_bytes: 1 << 20,
            max_streams: 1,
            obeyed: forebay_epp::protocol::ObeyedHeaders::default(),
            drain_timeout: DEADLINE,
        };
        adjust(&mut options);
        options
    };
    let error = Server::start(options(|_| {})).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
    assert!(!error.is_retryable());

    let mut taken = options(|_| {});
    taken.health_listen = harness.server.health_address;
    let error = Server::start(taken).await.unwrap_err();
    assert!(matches!(error, Error::Listen { purpose: "health", .. }), "{error}");

    let bad_selector = options(|options| {
        options.resources = ResourceSource::Folder(std::env::temp_dir());
        options.picker.agent_selector = "no equals sign".into();
    });
    let error = Server::start(bad_selector).await.unwrap_err();
    assert!(error.to_string().contains("\"no equals sign\" is not a label selector"), "{error}");
}
