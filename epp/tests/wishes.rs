//! What a gateway or a client asks for besides a decision, over real gRPC.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use common::{
    Harness, POOL,
    agent::{FakeAgent, kernel},
    agent_ip,
    gateway::{
        Gateway, HttpRequest, body, destination, error_code, headers, headers_before_body, immediate,
        with_metadata, with_subset,
    },
    pod,
};
use forebay_grpc::names::{EXPLAIN, EXPLANATION, METADATA_FOREBAY, RESERVE, RESERVED_ENDPOINT};
use forebay_grpc::proto::{
    ImmediateResponse, Kind, ProcessingRequest, ProcessingResponse, processing_request::Request,
};
use forebay_telemetry::v1::{Endpoint, Liveness, LivenessReason, LivenessState};
use serde_json::{Value, json};

const ASKS: Kind = Kind::BoolValue(true);
const PREFER: [(&str, &str); 1] = [("prefer", "respond-async, reserve-endpoint")];

async fn harness(pods: u8, reserve_endpoint: bool) -> Harness {
    let mut files = vec![("pool.yaml".to_owned(), POOL.to_owned())];
    files.extend((1..=pods).map(|n| (format!("{n}.yaml"), pod(n, true))));
    Harness::start(&files, |options| options.obeyed.reserve_endpoint = reserve_endpoint).await
}

async fn reply_to(gateway: &Gateway, message: ProcessingRequest) -> (ProcessingResponse, HttpRequest) {
    let mut request = gateway.open().await;
    request.send(message).await;
    (request.reply().await, request)
}

fn explanation(reply: &ProcessingResponse) -> Option<Value> {
    let hints = reply.dynamic_metadata.as_ref()?.fields.get(METADATA_FOREBAY)?;
    let Some(Kind::StructValue(hints)) = &hints.kind else { panic!("{hints:?}") };
    match hints.fields.get(EXPLANATION)?.kind.as_ref() {
        Some(Kind::StringValue(json)) => Some(serde_json::from_str(json).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_gateway_that_asks_gets_the_scores_and_verdicts() {
    let mut agent = FakeAgent::start(agent_ip(14), 0).await;
    let mut files =
        vec![("pool.yaml".to_owned(), POOL.to_owned()), ("agent.yaml".to_owned(), agent.manifest())];
    files.extend((1..=3).map(|n| (format!("{n}.yaml"), pod(n, true))));
    let harness = Harness::start(&files, |options| {
        options.picker.agent_port = agent.address.port();
        options.picker.agent_heartbeat = std::time::Duration::from_secs(60);
    })
    .await;
    let liveness = Liveness {
        state: LivenessState::Stalled.into(),
        reason: LivenessReason::ResponsesSilent.into(),
        ..Liveness::default()
    };
    let stalled = Endpoint { liveness: Some(liveness), ..kernel(2, 4, 4) };
    let mut reports = agent.reader().await;
    reports.snapshot(vec![kernel(1, 0, 0), stalled, kernel(3, 1, 1)], Vec::new());
    harness.until_endpoint(2, "its verdict", |view| view.liveness.is_some()).await;

    let gateway = Gateway::connect(&harness).await;
    let ask = with_metadata(headers(true), METADATA_FOREBAY, EXPLAIN, ASKS);
    let (reply, _request) = reply_to(&gateway, ask).await;
    let explanation = explanation(&reply).expect("an explanation");
    let endpoints = explanation["endpoints"].as_array().unwrap();
    assert_eq!(endpoints[0]["address"], destination(&reply)[0]);
    assert_eq!(
        (&endpoints[0]["pod"], &endpoints[0]["loadSource"]),
        (&json!("llm-d/vllm-1"), &json!("kernel"))
    );
    assert_eq!(endpoints[2]["excludedBy"], "stalled engine");
    assert_eq!(endpoints[2]["liveness"], json!({ "state": "stalled", "reason": "responses_silent" }));
    assert_eq!(explanation["scorers"][0]["name"], "added-waiting-scorer");
    assert!(endpoints[0]["total"].as_f64() > endpoints[1]["total"].as_f64(), "{explanation:#}");

    let (reply, _request) = reply_to(&gateway, headers(true)).await;
    assert_eq!(self::explanation(&reply), None, "without the request for an explanation");
}

#[tokio::test]
async fn an_error_is_explained() {
    let harness = harness(1, false).await;
    let mut ask = with_subset(Kind::StringValue("10.9.9.9".to_owned()));
    let asked = with_metadata(headers(true), METADATA_FOREBAY, EXPLAIN, ASKS).metadata_context.unwrap();
    ask.metadata_context.as_mut().unwrap().filter_metadata.extend(asked.filter_metadata);
    let (reply, _request) = reply_to(&Gateway::connect(&harness).await, ask).await;
    assert_eq!(error_code(immediate(&reply)), "no_endpoint_in_subset");
    assert_eq!(explanation(&reply).unwrap()["endpoints"][0]["excludedBy"], "subset hint of the gateway");
}

#[tokio::test]
async fn the_explanation_says_how_much_of_the_body_was_read() {
    let harness = harness(2, false).await;
    let mut request = Gateway::connect(&harness).await.open().await;
    let mut first = headers_before_body(&[("content-length", "2000"), ("content-type", "application/json")]);
    first.metadata_context = with_metadata(headers(true), METADATA_FOREBAY, EXPLAIN, ASKS).metadata_context;
    request.send(first).await;
    let start = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"#, "x".repeat(1_000));
    let share = start.len() as f64 / 2_000.0;
    request.send_message(Request::RequestBody(body(start, false))).await;
    let explanation = explanation(&request.reply().await).unwrap();
    assert_eq!(explanation["bodyShare"], share);
    assert!(explanation["promptBytes"].as_u64() > Some(1_000), "{explanation:#}");
}

fn reserved(immediate: &ImmediateResponse) -> (i32, Vec<(String, String)>) {
    let set = &immediate.headers.as_ref().unwrap().set_headers;
    let header = |header: &forebay_grpc::proto::HeaderValue| {
        (header.key.clone(), String::from_utf8(header.raw_value.to_vec()).unwrap())
    };
    let headers = set.iter().filter_map(|option| option.header.as_ref()).map(header).collect();
    (immediate.status.unwrap().code, headers)
}

#[tokio::test]
async fn a_client_can_ask_for_an_endpoint_if_the_operator_allows_it() {
    for is_allowed in [false, true] {
        let harness = harness(1, is_allowed).await;
        let gateway = Gateway::connect(&harness).await;
        let mut request = gateway.open().await;
        request.send(headers_before_body(&PREFER)).await;
        request.send_message(Request::RequestBody(body("{}", true))).await;
        let reply = request.reply().await;
        if !is_allowed {
            assert_eq!(destination(&reply), ["127.0.1.1:8000"]);
            assert_eq!(harness.endpoint(1).open_picks, 1);
            continue;
        }
        let (status, headers) = reserved(immediate(&reply));
        let expected = [(RESERVED_ENDPOINT, "127.0.1.1:8000"), ("preference-applied", "reserve-endpoint")];
        assert_eq!((status, headers), (204, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()));
        request.ended().await.unwrap();
        assert_eq!(harness.endpoint(1).open_picks, 0);
    }
}

#[tokio::test]
async fn a_gateway_that_reserves_gets_a_decision_that_counts_as_no_load() {
    let harness = harness(2, false).await;
    let gateway = Gateway::connect(&harness).await;
    let ask = with_metadata(headers(true), METADATA_FOREBAY, RESERVE, ASKS);
    let mut picked = Vec::new();
    for _ in 0..2 {
        let (reply, mut request) = reply_to(&gateway, ask.clone()).await;
        picked.push(destination(&reply)[0].clone());
        assert!(harness.endpoints().iter().all(|view| view.open_picks == 0));
        request.ended().await.unwrap();
    }
    assert_ne!(picked[0], picked[1], "endpoints with equal scores take turns");
}
