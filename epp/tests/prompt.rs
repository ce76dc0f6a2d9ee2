//! The prompt in the body decides, over real gRPC.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{
    Harness, POOL,
    agent::{FakeAgent, engine},
    agent_ip,
    gateway::{
        Gateway, HttpRequest, body, chunk, destination, headers_before_body, response_headers, trailers,
    },
    pod,
};
use forebay_epp::{
    endpoints::PrefixHits,
    schedule::{Order, Pipeline, score::RunningRequests},
};
use forebay_grpc::names::MODEL_NAME;
use forebay_grpc::proto::{
    BodySendMode, ProcessingRequest, ProcessingResponse, processing_request::Request,
    processing_response::Response,
};
use forebay_telemetry::v1::Delta;

const PODS: u8 = 4;

/// A chat request. `prompt`: the content of its message.
fn chat(model: &str, prompt: &str, rest: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{prompt}"}}]{rest}}}"#)
}

/// A text whose blocks differ from those of other seeds.
fn text(seed: &str, bytes: usize) -> String {
    (0..)
        .map(|n| format!("{seed} {n} "))
        .scan(0, |length, word| {
            *length += word.len();
            (*length <= bytes + word.len()).then_some(word)
        })
        .collect()
}

/// A decided request.
struct Decided {
    request: HttpRequest,
    endpoint: String,
    reply: ProcessingResponse,
    echo: Vec<u8>,
}

/// Sends the body in messages of `step` bytes, until it came back.
async fn decide(gateway: &Gateway, extra: &[(&str, &str)], sent: &[u8], step: usize) -> Decided {
    let mut request = gateway.open().await;
    request.send(headers_before_body(extra)).await;
    let sender = request.sender();
    let pieces: Vec<Bytes> = Bytes::copy_from_slice(sent).chunks(step).map(Bytes::copy_from_slice).collect();
    let sending = async move {
        for piece in pieces {
            send(&sender, Request::RequestBody(body(piece, false))).await;
        }
        send(&sender, Request::RequestBody(body("", true))).await;
    };
    let receiving = async {
        let reply = request.reply().await;
        let endpoint = destination(&reply)[0].clone();
        let echo = echo(&mut request).await;
        Decided { request, endpoint, reply, echo }
    };
    let ((), decided) = tokio::join!(sending, receiving);
    assert!(decided.echo == sent, "{} of {} bytes came back, or others", decided.echo.len(), sent.len());
    decided
}

async fn send(sender: &tokio::sync::mpsc::Sender<ProcessingRequest>, message: Request) {
    let message = ProcessingRequest { request: Some(message), ..ProcessingRequest::default() };
    sender.send(message).await.unwrap();
}

/// The body that comes back, to its end.
async fn echo(request: &mut HttpRequest) -> Vec<u8> {
    let mut received = Vec::new();
    loop {
        let chunk = chunk(&request.reply().await);
        received.extend_from_slice(&chunk.body);
        if chunk.end_of_stream {
            return received;
        }
    }
}

/// Decides, and ends with a response. Returns the endpoint.
async fn complete(gateway: &Gateway, extra: &[(&str, &str)], body: &str) -> String {
    let mut decided = decide(gateway, extra, body.as_bytes(), 64 << 10).await;
    decided.request.send(response_headers("200", Some(&decided.endpoint))).await;
    decided.request.reply().await;
    decided.request.finish();
    decided.request.ended().await.unwrap();
    decided.endpoint
}

#[tokio::test]
async fn a_shared_prefix_goes_to_the_endpoint_that_had_it() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect(&harness).await;
    let prefixes: Vec<String> = (0..PODS).map(|n| text(&format!("tenant {n}"), 20_000)).collect();
    let mut first = Vec::new();
    for prefix in &prefixes {
        first.push(complete(&gateway, &[], &chat("qwen", prefix, "")).await);
    }
    for turn in 0..3 {
        for (prefix, first) in prefixes.iter().zip(&first).rev() {
            let longer = chat("qwen", &format!("{prefix}{}", text(&format!("turn {turn}"), 600)), "");
            assert_eq!(&complete(&gateway, &[], &longer).await, first, "turn {turn}");
        }
    }
}

#[tokio::test]
async fn another_model_or_salt_does_not_match() {
    let prompt = text("shared", 20_000);
    let salt = r#","cache_salt":"secret""#;
    let header = [(MODEL_NAME, "adapter")];
    let first = (&[][..], chat("qwen", &prompt, ""));
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Headers<'_>, String, bool); 6] = [
        ("the same", &[], chat("qwen", &prompt, ""), true),
        ("other members", &[], chat("qwen", &prompt, r#","max_tokens":7,"stream":true"#), true),
        ("another model", &[], chat("adapter", &prompt, ""), false),
        ("another model in the header", &header, chat("qwen", &prompt, ""), false),
        ("a salt", &[], chat("qwen", &prompt, salt), false),
        ("tools", &[], chat("qwen", &prompt, &format!(r#","tools":["{}"]"#, text("tool", 600))), false),
    ];
    for (name, extra, body, is_match) in cases {
        let harness = Harness::with_pods(PODS).await;
        let gateway = Gateway::connect(&harness).await;
        let had_it = complete(&gateway, first.0, &first.1).await;
        assert_eq!(complete(&gateway, extra, &body).await == had_it, is_match, "{name}");
    }
}

#[tokio::test]
async fn the_body_comes_back_for_every_size_and_split() {
    let harness = Harness::with_pods(2).await;
    let gateway = Gateway::connect(&harness).await;
    let small = chat("qwen", &text("small", 3000), "");
    let large = chat("qwen", &text("large", 20 << 20), "");
    let cases: [(&[u8], usize); 7] = [
        (b"", 1),
        (b"{", 1),
        (b"not JSON", 3),
        (small.as_bytes(), 1),
        (small.as_bytes(), 100_000),
        (large.as_bytes(), 100_000),
        (large.as_bytes(), 3 << 20),
    ];
    for (sent, step) in cases {
        let decided = decide(&gateway, &[], sent, step).await;
        let mode = decided.reply.mode_override.unwrap();
        assert_eq!(mode.request_body_mode(), BodySendMode::FullDuplexStreamed, "the body is still needed");
    }
    let mut request = gateway.open().await;
    request.send(headers_before_body(&[])).await;
    let pieces = ["{", &"a".repeat(10_000), "b", &"c".repeat(10_000), "d"];
    for (index, piece) in pieces.iter().enumerate() {
        let is_last = index + 1 == pieces.len();
        request.send_message(Request::RequestBody(body((*piece).to_owned(), is_last))).await;
    }
    destination(&request.reply().await);
    assert!(echo(&mut request).await == pieces.concat().as_bytes(), "small and large pieces change places");
    drop(request);
    harness.until("all ended", |endpoints| endpoints.iter().all(|it| it.open_picks == 0)).await;
}

#[tokio::test]
async fn a_new_prompt_is_decided_after_its_first_blocks_and_known_to_its_end() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect(&harness).await;
    let prompt = chat("qwen", &text("new", 100_000), "");
    let length = prompt.len().to_string();
    let mut request = gateway.open().await;
    request.send(headers_before_body(&[("content-length", &length)])).await;
    let (start, rest) = prompt.split_at(4096);
    request.send_message(Request::RequestBody(body(start.to_owned(), false))).await;
    let first = destination(&request.reply().await)[0].clone();
    assert_eq!(chunk(&request.reply().await).body, start.as_bytes());
    request.send_message(Request::RequestBody(body(rest.to_owned(), true))).await;
    assert_eq!(echo(&mut request).await, rest.as_bytes());
    request.send(response_headers("200", None)).await;
    request.reply().await;
    request.finish();
    request.ended().await.unwrap();
    let share = r#"forebay_epp_body_share_at_pick_bucket{le="0.05"}"#;
    assert_eq!(harness.metric(share).await, 1.0);

    // The same start, and another end: the end decides where the match ends, so it is read.
    let again = decide(&gateway, &[("content-length", &length)], prompt.as_bytes(), 4096).await;
    assert_eq!(again.endpoint, first);
    let share = r#"forebay_epp_body_share_at_pick_bucket{le="0.9"}"#;
    assert_eq!(harness.metric(share).await, 1.0, "the match was known after a part of the body");
    assert_eq!(harness.metric("forebay_epp_body_share_at_pick_count").await, 2.0);
}

#[tokio::test]
async fn a_gateway_that_stops_bodies_gets_no_early_decisions() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect(&harness).await;
    let prompts = ["first", "second"].map(|seed| chat("qwen", &text(seed, 100_000), ""));
    let length = prompts[0].len().to_string();
    let mut request = gateway.open().await;
    request.send(headers_before_body(&[("content-length", &length)])).await;
    request.send_message(Request::RequestBody(body(prompts[0][..4096].to_owned(), false))).await;
    destination(&request.reply().await);
    chunk(&request.reply().await);
    request.send(response_headers("200", None)).await;
    request.reply().await;
    request.finish();
    request.ended().await.unwrap();
    let had_it = complete(&gateway, &[("content-length", &length)], &prompts[1]).await;
    assert_eq!(complete(&gateway, &[], &prompts[1]).await, had_it);
    assert_eq!(harness.metric(r#"forebay_epp_body_share_at_pick_bucket{le="0.9"}"#).await, 1.0);
    assert_eq!(harness.metric("forebay_epp_body_share_at_pick_count").await, 3.0);
}

#[tokio::test]
async fn members_behind_the_messages_are_waited_for_once_they_were_seen() {
    let harness = Harness::with_pods(PODS).await;
    let gateway = Gateway::connect(&harness).await;
    let salted = |seed: &str| chat("qwen", &text(seed, 200_000), r#","cache_salt":"secret""#);
    let body = salted("first");
    complete(&gateway, &[], &body).await;
    // The first body was decided before its salt, so the blocks became known at its end. From now on the end is awaited.
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(complete(&gateway, &[], &body).await);
        complete(&gateway, &[], &salted("other")).await;
    }
    assert!(endpoints.iter().all(|it| *it == endpoints[0]), "{endpoints:?}");
}

#[tokio::test]
async fn trailers_or_a_repeated_last_chunk_end_the_body() {
    let harness = Harness::with_pods(1).await;
    let gateway = Gateway::connect(&harness).await;
    let sent = chat("qwen", "hello", "");
    let mut request = gateway.open().await;
    request.send(headers_before_body(&[])).await;
    request.send_message(Request::RequestBody(body(sent.clone(), false))).await;
    request.send_message(Request::RequestTrailers(trailers())).await;
    destination(&request.reply().await);
    let only = chunk(&request.reply().await);
    assert_eq!((only.body.as_ref(), only.end_of_stream), (sent.as_bytes(), false));
    let reply = request.reply().await;
    assert!(matches!(reply.response, Some(Response::RequestTrailers(_))), "{reply:?}");

    let mut request = gateway.open().await;
    request.send(headers_before_body(&[])).await;
    for _ in 0..2 {
        request.send_message(Request::RequestBody(body(sent.clone(), true))).await;
    }
    request.send(response_headers("200", None)).await;
    destination(&request.reply().await);
    assert!(chunk(&request.reply().await).end_of_stream);
    let reply = request.reply().await;
    assert!(matches!(reply.response, Some(Response::ResponseHeaders(_))), "{reply:?}");
}

#[tokio::test]
async fn bodies_without_a_readable_prompt_are_not_awaited() {
    let harness = Harness::with_pods(1).await;
    let gateway = Gateway::connect(&harness).await;
    let cases: [&[(&str, &str)]; 3] =
        [&[("content-encoding", "gzip")], &[("content-type", "text/plain")], &[(":path", "/v1/models")]];
    for extra in cases {
        let mut request = gateway.open().await;
        let mut headers = headers_before_body(extra);
        if let Some(Request::RequestHeaders(it)) = &mut headers.request {
            // The first of two counts.
            it.headers.as_mut().unwrap().headers.reverse();
        }
        request.send(headers).await;
        let reply = request.reply().await;
        destination(&reply);
        let mode = reply.mode_override.unwrap();
        assert_eq!(mode.request_body_mode(), BodySendMode::None, "{extra:?}");
    }
}

#[tokio::test]
async fn a_pipeline_that_needs_no_prompt_decides_on_the_headers() {
    let manifests = [("pool.yaml".to_owned(), POOL.to_owned()), ("pod.yaml".to_owned(), pod(1, true))];
    let harness = Harness::start(&manifests, |options| {
        let scorers = vec![("running-requests-size-scorer".to_owned(), Box::new(RunningRequests) as _, 1.0)];
        options.picker.pipelines = Arc::new(Pipeline::new(Vec::new(), scorers, Order::MaxScore)).into();
    })
    .await;
    let mut request = Gateway::connect(&harness).await.open().await;
    request.send(headers_before_body(&[])).await;
    destination(&request.reply().await);
}

#[tokio::test]
async fn an_endpoint_that_fails_at_once_gets_no_more_than_its_share() {
    const REQUESTS: usize = 60;
    let harness = Harness::with_pods(3).await;
    let gateway = Gateway::connect(&harness).await;
    let (mut failing, mut open) = (0, std::collections::VecDeque::new());
    for n in 0..REQUESTS {
        let prompt = chat("qwen", &text(&format!("prompt {n}"), 2000), "");
        let mut decided = decide(&gateway, &[], prompt.as_bytes(), 64 << 10).await;
        let is_failing = decided.endpoint == "127.0.1.1:8000";
        let status = if is_failing { "500" } else { "200" };
        if is_failing || open.len() > 4 {
            failing += usize::from(is_failing);
            decided.request.send(response_headers(status, None)).await;
            decided.request.reply().await;
            decided.request.finish();
            decided.request.ended().await.unwrap();
        } else {
            open.push_back(decided.request);
        }
        if open.len() > 4 {
            open.pop_front();
        }
    }
    assert!(failing <= REQUESTS / 3, "{failing} of {REQUESTS} requests went to the failing one of 3");
}

#[tokio::test]
async fn the_first_byte_of_a_relayed_response_is_its_first_content() {
    let harness = Harness::with_pods(1).await;
    let gateway = Gateway::connect(&harness).await;
    let sent = chat("qwen", &text("stream", 3000), r#","stream":true"#);
    let mut decided = decide(&gateway, &[], sent.as_bytes(), 64 << 10).await;
    let mut head = response_headers("200", None);
    if let Some(Request::ResponseHeaders(it)) = &mut head.request {
        it.headers.as_mut().unwrap().headers.push(forebay_grpc::proto::HeaderValue {
            key: "content-type".into(),
            raw_value: "text/event-stream".into(),
            ..Default::default()
        });
    }
    decided.request.send(head).await;
    decided.request.reply().await;
    for (data, waiting) in [(": ping\n", 1), ("\n", 1), ("data: {}\n\n", 0)] {
        decided.request.send_message(Request::ResponseBody(body(data, false))).await;
        chunk(&decided.request.reply().await);
        assert_eq!(harness.endpoint(1).waiting_picks, waiting, "after {data:?}");
    }
    drop(decided);
    harness.until("the reset ends it", |endpoints| endpoints[0].open_picks == 0).await;
}

/// An engine that evicts more than the index believes.
#[tokio::test]
async fn an_endpoint_whose_cache_does_less_than_believed_is_believed_less() {
    let mut agent = FakeAgent::start(agent_ip(12), 0).await;
    let mut manifests =
        vec![("pool.yaml".to_owned(), POOL.to_owned()), ("agent.yaml".to_owned(), agent.manifest())];
    manifests.extend((1..=2).map(|n| (format!("pod-{n}.yaml"), pod(n, true))));
    let harness = Harness::start(&manifests, |options| {
        options.picker.agent_port = agent.address.port();
        options.picker.agent_heartbeat = std::time::Duration::from_secs(60);
    })
    .await;
    let mut reports = agent.reader().await;
    let counted = |n: u8, queries: u64, hits: u64| {
        let mut endpoint = engine(n, 0, 0, 0);
        let load = endpoint.engine.as_mut().unwrap();
        load.measured_boottime_ns += queries;
        (load.running, load.prompt_tokens) = (queries as u32, queries);
        (load.prefix_cache_queries, load.prefix_cache_hits) = (queries, hits);
        endpoint
    };
    reports.snapshot(vec![counted(1, 1, 0), counted(2, 1, 0)], vec![]);
    harness.until("the counters", |all| all.iter().all(|view| view.engine_running == Some(1))).await;
    let gateway = Gateway::connect(&harness).await;
    let prompt = chat("qwen", &text("conversation", 400_000), "");
    let first = complete(&gateway, &[], &prompt).await;
    assert_eq!(complete(&gateway, &[], &prompt).await, first);
    let n = if first == "127.0.1.1:8000" { 1 } else { 2 };
    // The second request was expected to be nearly all in the cache. A tenth was.
    reports.delta(Delta { endpoints: vec![counted(n, 200_001, 10_000)], ..Delta::default() });
    harness.until_endpoint(n, "a reading", |view| view.engine_running == Some(200_001)).await;
    let view = harness.endpoint(n);
    let PrefixHits { predicted_bytes, measured_bytes } = view.prefix_hits;
    assert!((390_000.0..=400_000.0).contains(&predicted_bytes), "{predicted_bytes} bytes");
    assert!((0.05..0.15).contains(&(measured_bytes / predicted_bytes)), "{measured_bytes} bytes");
    assert!((0.1..0.35).contains(&view.prefix_belief), "{}", view.prefix_belief);
    let (_, metrics) = harness.get("/metrics").await;
    for (name, value) in [
        ("prefix_hit_predicted_bytes_total", predicted_bytes),
        ("prefix_hit_measured_bytes_total", measured_bytes),
        ("prefix_belief_ratio", view.prefix_belief),
    ] {
        let line = format!("forebay_epp_{name}{{pod=\"llm-d/vllm-{n}\"}} ");
        let found = metrics.lines().find_map(|it| it.strip_prefix(&line)?.parse::<f64>().ok());
        assert_eq!(found, Some(value), "{name}");
    }
}
