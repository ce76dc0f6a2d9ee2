//! The prompt comes in messages instead of the body, over real gRPC.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::sync::Arc;

use common::{
    Harness, POOL,
    gateway::{Gateway, HttpRequest, body, destination, headers_before_body, response_headers},
    pod,
};
use forebay_epp::features::{MAX_BLOCKS, PromptSender};
use forebay_epp::schedule::{Order, Pipeline, PromptReader, score::RunningRequests};
use forebay_grpc::names::{METADATA_FOREBAY, PROMPT_TYPE, TAKES_PROMPT};
use forebay_grpc::proto::{
    Any, BodySendMode, Kind, Metadata, ProcessingRequest, ProcessingResponse, Prompt, ProtocolConfiguration,
    processing_request::Request,
};
use http::HeaderMap;
use prost::Message as _;
use tonic::{Code, Status};

const PODS: u8 = 4;

/// Picks for which at most this share of the body was read.
fn shares(most: &str) -> String {
    format!(r#"forebay_epp_body_share_at_pick_bucket{{le="{most}"}}"#)
}

fn chat(prompt: &str) -> String {
    format!(r#"{{"model":"qwen","messages":[{{"role":"user","content":"{prompt}"}}]}}"#)
}

/// A text whose blocks differ from those of other seeds.
fn text(seed: &str, words: usize) -> String {
    (0..words).map(|n| format!("{seed} {n} ")).collect()
}

fn sender(body: &str) -> PromptSender {
    let reader = PromptReader::new("/v1/chat/completions", &HeaderMap::new()).unwrap();
    PromptSender::new(reader.with_length(Some(body.len() as u64)))
}

fn with_any(mut request: ProcessingRequest, prompt: Any) -> ProcessingRequest {
    let typed = [(METADATA_FOREBAY.to_owned(), prompt)].into();
    request.metadata_context = Some(Metadata { typed_filter_metadata: typed, ..Metadata::default() });
    request
}

fn with_prompt(request: ProcessingRequest, prompt: &Prompt) -> ProcessingRequest {
    with_any(request, Any { type_url: PROMPT_TYPE.to_owned(), value: prompt.encode_to_vec() })
}

/// Request headers of a gateway that sends no body.
fn headers_without_body() -> ProcessingRequest {
    let mut request = headers_before_body(&[]);
    request.protocol_config = Some(ProtocolConfiguration {
        request_body_mode: BodySendMode::None.into(),
        ..ProtocolConfiguration::default()
    });
    request
}

/// A message with nothing but a part of a prompt.
fn part(prompt: &Prompt) -> ProcessingRequest {
    with_prompt(ProcessingRequest::default(), prompt)
}

/// The version of prompts in messages that the picker takes.
fn taken(reply: &ProcessingResponse) -> Option<f64> {
    let hints = &reply.dynamic_metadata.as_ref()?.fields[METADATA_FOREBAY];
    let Some(Kind::StructValue(hints)) = &hints.kind else { panic!("no hints: {hints:?}") };
    match hints.fields.get(TAKES_PROMPT)?.kind {
        Some(Kind::NumberValue(version)) => Some(version),
        _ => panic!("no version: {hints:?}"),
    }
}

/// Sends the whole prompt with the headers. Returns the endpoint.
async fn pick(gateway: &Gateway, body: &str) -> (HttpRequest, String) {
    let mut sender = sender(body);
    sender.feed(body.as_bytes());
    sender.finish();
    let mut request = gateway.open().await;
    request.send(with_prompt(headers_without_body(), &sender.message(false))).await;
    let reply = request.reply().await;
    assert_eq!(reply.mode_override.as_ref().unwrap().request_body_mode(), BodySendMode::None);
    assert_eq!(taken(&reply), Some(1.0));
    (request, destination(&reply)[0].clone())
}

async fn pick_and_end(gateway: &Gateway, body: &str) -> String {
    let (mut request, endpoint) = pick(gateway, body).await;
    request.send(response_headers("200", Some(&endpoint))).await;
    request.reply().await;
    request.finish();
    request.ended().await.unwrap();
    endpoint
}

#[tokio::test]
async fn one_message_decides_by_the_prompt() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect_with_prompts(&harness, "1").await;
    let bodies: Vec<String> = (0..PODS).map(|n| chat(&text(&format!("tenant {n}"), 2_000))).collect();
    let mut first = Vec::new();
    for body in &bodies {
        first.push(pick_and_end(&gateway, body).await);
    }
    for (body, first) in bodies.iter().zip(&first).rev() {
        assert_eq!(&pick_and_end(&gateway, body).await, first);
    }
    harness.until("all ended", |endpoints| endpoints.iter().all(|it| it.open_picks == 0)).await;
}

#[tokio::test]
async fn waits_for_more_of_a_known_prefix_and_learns_what_follows_the_decision() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect_with_prompts(&harness, "1").await;
    let prefix = text("known", 2_000);
    let first = pick_and_end(&gateway, &chat(&prefix)).await;
    let body = chat(&format!("{prefix}{}", text("unknown", 2_000)));
    let mut sender = sender(&body);
    let mut request = gateway.open().await;
    sender.feed(&body.as_bytes()[..4_000]);
    request.send(with_prompt(headers_without_body(), &sender.message(false))).await;
    sender.sent();
    sender.feed(&body.as_bytes()[4_000..8_000]);
    request.send(part(&sender.message(false))).await;
    sender.sent();
    sender.feed(&body.as_bytes()[8_000..30_000]);
    request.send(part(&sender.message(false))).await;
    sender.sent();
    assert_eq!(destination(&request.reply().await)[0], first);
    sender.feed(&body.as_bytes()[30_000..]);
    sender.finish();
    request.send(part(&sender.message(false))).await;
    request.send(response_headers("200", None)).await;
    request.reply().await;
    request.finish();
    request.ended().await.unwrap();
    assert_eq!((harness.metric(&shares("0.5")).await, harness.metric(&shares("0.9")).await), (0.0, 1.0));

    // The blocks behind the decision are known, so the same prompt is read to its end.
    let mut sender = self::sender(&body);
    let mut request = gateway.open().await;
    sender.feed(&body.as_bytes()[..40_000]);
    request.send(with_prompt(headers_without_body(), &sender.message(false))).await;
    sender.sent();
    sender.feed(&body.as_bytes()[40_000..]);
    sender.finish();
    request.send(part(&sender.message(false))).await;
    assert_eq!(destination(&request.reply().await)[0], first);
    assert_eq!(harness.metric(&shares("0.9")).await, 1.0, "not early");
}

#[tokio::test]
async fn decides_at_once_if_the_gateway_can_hold_no_more() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect_with_prompts(&harness, "1").await;
    let mut request = gateway.open().await;
    request.send(with_prompt(headers_without_body(), &Prompt::default())).await;
    let must_decide = Prompt { must_decide: true, ..Prompt::default() };
    request.send(part(&must_decide)).await;
    destination(&request.reply().await);
}

#[tokio::test]
async fn invalid_messages_end_the_stream_with_the_reason() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect_with_prompts(&harness, "1").await;
    let valid = Prompt { blocks: vec![1], prompt_bytes: 300, ..Prompt::default() };
    let large = Prompt { blocks: vec![1; MAX_BLOCKS + 1], prompt_bytes: 1 << 30, ..Prompt::default() };
    let unknown = Prompt { kept_blocks: 2, ..valid.clone() };
    let malformed = Any { type_url: PROMPT_TYPE.to_owned(), value: b"\xff"[..].into() };
    let other = Any { type_url: "type.googleapis.com/other".to_owned(), ..Any::default() };
    let cases = [
        (with_prompt(headers_without_body(), &large), "32769 blocks, at most 32768"),
        (with_prompt(headers_without_body(), &unknown), "keeps 2 blocks"),
        (with_any(headers_without_body(), malformed), "cannot be decoded"),
        (with_any(headers_without_body(), other), "has the type \"type.googleapis.com/other\""),
    ];
    let is_refused = |status: Status, why: &str| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with("the prompt in the metadata "), "{status}");
        assert!(status.message().contains(why), "{status}");
    };
    for (message, why) in cases {
        let mut request = gateway.open().await;
        request.send(message).await;
        is_refused(request.next().await.unwrap_err(), why);
    }
    // After the decision, too.
    let mut request = gateway.open().await;
    request.send(with_prompt(headers_without_body(), &valid)).await;
    destination(&request.reply().await);
    request.send(part(&unknown)).await;
    is_refused(request.next().await.unwrap_err(), "keeps 2 blocks");
    harness.until("all ended", |endpoints| endpoints.iter().all(|it| it.open_picks == 0)).await;
}

#[tokio::test]
async fn prompts_are_not_read_on_streams_that_did_not_announce_them() {
    let harness = Harness::with_pods(PODS).await;
    let known = chat(&text("known", 2_000));
    let had_it = pick_and_end(&Gateway::connect_with_prompts(&harness, "1").await, &known).await;
    for version in ["", "0", "2", "one"] {
        let gateway = Gateway::connect_with_prompts(&harness, version).await;
        let mut endpoints = Vec::new();
        for _ in 0..PODS {
            let mut request = gateway.open().await;
            request.send(with_prompt(headers_without_body(), &Prompt::default())).await;
            let reply = request.reply().await;
            assert_eq!(taken(&reply), None, "{version:?}");
            endpoints.push(destination(&reply)[0].clone());
            let malformed = Any { type_url: "other".to_owned(), ..Any::default() };
            request.send(with_any(ProcessingRequest::default(), malformed)).await;
            request.send(response_headers("200", None)).await;
            request.reply().await;
        }
        assert!(endpoints.iter().any(|it| *it != had_it), "the prompt was used: {endpoints:?}");
    }
}

#[tokio::test]
async fn a_body_is_read_although_prompts_are_taken() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect_with_prompts(&harness, "1").await;
    let known = chat(&text("known", 2_000));
    let mut request = gateway.open().await;
    request.send(headers_before_body(&[])).await;
    request.send_message(Request::RequestBody(body(known.clone(), true))).await;
    let reply = request.reply().await;
    assert_eq!(taken(&reply), Some(1.0));
    assert_eq!(reply.mode_override.as_ref().unwrap().request_body_mode(), BodySendMode::FullDuplexStreamed);
    request.send(response_headers("200", None)).await;
    request.finish();
    while request.next().await.unwrap().is_some() {}
    assert_eq!(pick(&gateway, &known).await.1, destination(&reply)[0], "both ways know the same blocks");
}

#[tokio::test]
async fn a_pipeline_that_reads_no_prompt_answers_on_the_headers() {
    let manifests = [("pool.yaml".to_owned(), POOL.to_owned()), ("pod.yaml".to_owned(), pod(1, true))];
    let harness = Harness::start(&manifests, |options| {
        let scorers = vec![("running-requests-size-scorer".to_owned(), Box::new(RunningRequests) as _, 1.0)];
        options.picker.pipelines = Arc::new(Pipeline::new(Vec::new(), scorers, Order::MaxScore)).into();
    })
    .await;
    let gateway = Gateway::connect_with_prompts(&harness, "1").await;
    for first in [headers_before_body(&[]), with_prompt(headers_without_body(), &Prompt::default())] {
        let mut request = gateway.open().await;
        request.send(first).await;
        let reply = request.reply().await;
        destination(&reply);
        assert_eq!(taken(&reply), None);
    }
}
