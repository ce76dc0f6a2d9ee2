//! The rules of the Endpoint Picker Protocol, over real gRPC.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    Harness, POOL, eventually,
    gateway::{
        Gateway, body, chunk, destination, error_code, headers, immediate, list, response_headers, trailers,
        with_subset,
    },
    pod, pod_at,
};
use forebay_grpc::names::MAX_STREAMED_BODY_BYTES;
use forebay_grpc::proto::{
    BodySendMode, HeaderAppendAction, Kind, ProcessingRequest, ProtocolConfiguration,
    processing_request::Request, processing_response::Response,
};
use forebay_grpc::{CONTENT_TYPE, PROCESS, STATUS};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[tokio::test]
async fn replies_to_headers_at_once_with_header_and_metadata() {
    let harness = Harness::with_pods(1).await;
    let mut request = Gateway::connect(&harness).await.open().await;
    request.send(headers(false)).await;
    let reply = request.reply().await;
    assert_eq!(destination(&reply), ["127.0.1.1:8000"]);

    let Some(Response::RequestHeaders(reply_body)) = &reply.response else { panic!("{reply:?}") };
    let common = reply_body.response.as_ref().unwrap();
    assert!(common.clear_route_cache);
    assert_eq!(common.body_mutation, None);
    let option = &common.header_mutation.as_ref().unwrap().set_headers[0];
    assert_eq!(option.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd);
    assert_eq!(option.header.as_ref().unwrap().value, "", "raw_value only: Envoy rejects both");
    let mode = reply.mode_override.as_ref().unwrap();
    assert_eq!(mode.request_body_mode(), BodySendMode::None);
    assert_eq!(mode.response_body_mode(), BodySendMode::None);
}

#[tokio::test]
async fn replies_to_a_request_without_body() {
    let harness = Harness::with_pods(1).await;
    let mut request = Gateway::connect(&harness).await.open().await;
    request.send(headers(true)).await;
    assert_eq!(destination(&request.reply().await), ["127.0.1.1:8000"]);
    request.finish();
    request.ended().await.unwrap();
}

#[tokio::test]
async fn echoes_a_body_in_chunks() {
    let harness = Harness::with_pods(1).await;
    let (mut request, _) = Gateway::connect(&harness).await.pick().await;
    let sent: Vec<u8> = (0..200_000_u32).map(|byte| byte as u8).collect();
    request.send_message(Request::RequestBody(body(sent[..70_000].to_vec(), false))).await;
    request.send_message(Request::RequestBody(body(sent[70_000..].to_vec(), true))).await;

    let mut received = Vec::new();
    loop {
        let chunk = chunk(&request.reply().await);
        assert!(chunk.body.len() <= MAX_STREAMED_BODY_BYTES);
        received.extend_from_slice(&chunk.body);
        if chunk.end_of_stream {
            break;
        }
    }
    assert!(received == sent, "{} of {} bytes came back, or others", received.len(), sent.len());
    request.finish();
    request.ended().await.unwrap();
}

#[tokio::test]
async fn empty_last_chunk_ends_the_echo() {
    let harness = Harness::with_pods(1).await;
    let (mut request, _) = Gateway::connect(&harness).await.pick().await;
    request.send_message(Request::RequestBody(body("{}", false))).await;
    request.send_message(Request::RequestBody(body("", true))).await;
    let first = chunk(&request.reply().await);
    assert_eq!((first.body.as_ref(), first.end_of_stream), (&b"{}"[..], false));
    let last = chunk(&request.reply().await);
    assert_eq!((last.body.len(), last.end_of_stream), (0, true));
}

/// Envoy 1.35 to 1.37 repeats the last chunk of large bodies (envoy #46237).
#[tokio::test]
async fn replies_once_to_a_repeated_last_chunk() {
    let harness = Harness::with_pods(1).await;
    let (mut request, _) = Gateway::connect(&harness).await.pick().await;
    for _ in 0..2 {
        request.send_message(Request::RequestBody(body("last", true))).await;
    }
    request.send(response_headers("200", None)).await;
    assert!(chunk(&request.reply().await).end_of_stream);
    let reply = request.reply().await;
    assert!(matches!(reply.response, Some(Response::ResponseHeaders(_))), "{reply:?}");
}

#[tokio::test]
async fn trailers_may_end_the_request() {
    let harness = Harness::with_pods(1).await;
    let (mut request, _) = Gateway::connect(&harness).await.pick().await;
    request.send_message(Request::RequestBody(body("all", false))).await;
    request.send_message(Request::RequestTrailers(trailers())).await;
    let only = chunk(&request.reply().await);
    assert_eq!((only.body.as_ref(), only.end_of_stream), (&b"all"[..], false));
    let reply = request.reply().await;
    assert!(matches!(reply.response, Some(Response::RequestTrailers(_))), "{reply:?}");
}

#[tokio::test]
async fn other_body_modes_get_one_unchanged_reply_per_message() {
    let harness = Harness::with_pods(1).await;
    let mut request = Gateway::connect(&harness).await.open().await;
    let config = ProtocolConfiguration {
        request_body_mode: BodySendMode::Buffered.into(),
        response_body_mode: BodySendMode::Streamed.into(),
        ..ProtocolConfiguration::default()
    };
    request.send(ProcessingRequest { protocol_config: Some(config), ..headers(false) }).await;
    destination(&request.reply().await);
    request.send_message(Request::RequestBody(body("{}", true))).await;
    let reply = request.reply().await;
    let Some(Response::RequestBody(reply_body)) = &reply.response else { panic!("{reply:?}") };
    assert_eq!(reply_body.response.as_ref().unwrap().body_mutation, None);
    request.send_message(Request::ResponseBody(body("x", false))).await;
    let reply = request.reply().await;
    let Some(Response::ResponseBody(reply_body)) = &reply.response else { panic!("{reply:?}") };
    assert_eq!(reply_body.response.as_ref().unwrap().body_mutation, None);
}

#[tokio::test]
async fn leaves_the_response_unchanged() {
    let harness = Harness::with_pods(1).await;
    let (mut request, _) = Gateway::connect(&harness).await.pick().await;
    request.send(response_headers("503", Some("127.0.1.1:8000"))).await;
    let reply = request.reply().await;
    let Some(Response::ResponseHeaders(reply_body)) = &reply.response else { panic!("{reply:?}") };
    assert_eq!(reply_body.response.as_ref().unwrap().header_mutation, None, "no header is changed");
    request.send_message(Request::ResponseBody(body("data: 1\n\n", false))).await;
    request.send_message(Request::ResponseBody(body("", true))).await;
    request.send_message(Request::ResponseTrailers(trailers())).await;
    assert_eq!(chunk(&request.reply().await).body.as_ref(), b"data: 1\n\n");
    assert!(chunk(&request.reply().await).end_of_stream);
    let reply = request.reply().await;
    assert!(matches!(reply.response, Some(Response::ResponseTrailers(_))), "{reply:?}");
    assert_eq!(harness.metric(r#"forebay_epp_responses_total{class="5xx"}"#).await, 1.0);
}

#[tokio::test]
async fn picks_only_endpoints_of_the_subset_hint() {
    let harness = Harness::with_pods(3).await;
    let gateway = Gateway::connect(&harness).await;
    let cases = [
        (list(&["127.0.1.2:8000"]), vec!["127.0.1.2:8000"]),
        (list(&["127.0.1.2:8000", "127.0.1.3:8000"]), vec!["127.0.1.2:8000", "127.0.1.3:8000"]),
        (list(&["127.0.1.2:8000, 127.0.1.3:8000"]), vec!["127.0.1.2:8000", "127.0.1.3:8000"]),
        (Kind::StringValue("127.0.1.1:8000,127.0.1.2:8000".into()), vec!["127.0.1.1:8000", "127.0.1.2:8000"]),
        (list(&["127.0.1.3", "127.0.1.1:9999"]), vec!["127.0.1.3:8000"]),
    ];
    for (subset, allowed) in cases {
        for _ in 0..4 {
            let mut request = gateway.open().await;
            request.send(with_subset(subset.clone())).await;
            let mut picked = destination(&request.reply().await);
            picked.sort();
            assert_eq!(picked, allowed, "{subset:?}");
        }
    }
}

#[tokio::test]
async fn subset_hint_without_a_member_is_503() {
    let harness = Harness::with_pods(2).await;
    let gateway = Gateway::connect(&harness).await;
    let hints = [
        list(&[]),
        list(&["127.0.1.9:8000"]),
        list(&["127.0.1.1:8001"]),
        Kind::StringValue(String::new()),
        Kind::NumberValue(1.0),
    ];
    for hint in hints {
        let mut request = gateway.open().await;
        request.send(with_subset(hint.clone())).await;
        let reply = request.reply().await;
        let immediate = immediate(&reply);
        assert_eq!(immediate.status.unwrap().code, 503, "{hint:?}");
        assert_eq!(error_code(immediate), "no_endpoint_in_subset");
        request.ended().await.unwrap();
    }
}

#[tokio::test]
async fn pool_without_endpoints_is_503_in_openai_format() {
    let manifests = [("pool.yaml".to_owned(), POOL.to_owned())];
    let harness = Harness::start(&manifests, |_| {}).await;
    harness.write("pod-1.yaml", &pod(1, false));
    let gateway = Gateway::connect(&harness).await;
    let mut request = gateway.open().await;
    request.send(headers(false)).await;
    let reply = request.reply().await;
    let immediate_reply = immediate(&reply);
    assert_eq!(immediate_reply.status.unwrap().code, 503);
    let header = immediate_reply.headers.as_ref().unwrap().set_headers[0].header.as_ref().unwrap();
    assert_eq!((header.key.as_str(), header.raw_value.as_ref()), ("content-type", &b"application/json"[..]));
    let body: serde_json::Value = serde_json::from_slice(&immediate_reply.body).unwrap();
    assert_eq!(body["error"]["type"], "server_error");
    assert_eq!(body["error"]["message"], "no pod of InferencePool llm-d/qwen is ready");
    assert_eq!(body["error"]["code"], "no_ready_endpoint");

    harness.remove("pool.yaml");
    eventually("the pool is gone", || {
        let missing = harness.scheduler().pick(&Default::default()).unwrap_err();
        (missing.code() == "pool_not_found").then_some(())
    })
    .await;
    let mut request = gateway.open().await;
    request.send(headers(false)).await;
    assert_eq!(error_code(immediate(&request.reply().await)), "pool_not_found");
}

#[tokio::test]
async fn follows_the_pods_of_the_store() {
    let harness = Harness::with_pods(2).await;
    let gateway = Gateway::connect(&harness).await;
    harness.write("pod-1.yaml", &pod(1, false));
    harness.until("pod 1 is out", |endpoints| endpoints.len() == 1).await;
    for _ in 0..5 {
        assert_eq!(gateway.pick().await.1, ["127.0.1.2:8000"]);
    }
    harness.write("pod-3.yaml", &pod(3, true));
    harness.until("pod 3 is in", |endpoints| endpoints.len() == 2).await;
    assert_eq!(gateway.pick().await.1, ["127.0.1.3:8000", "127.0.1.2:8000"], "pod 2 has five requests open");
}

#[tokio::test]
async fn decision_lists_the_best_endpoints_up_to_the_limit() {
    let harness = Harness::with_pods(5).await;
    let gateway = Gateway::connect(&harness).await;
    let (_open, first) = gateway.pick().await;
    assert_eq!(first.len(), 3);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3);
    // A gateway that does not accept a list gets one endpoint.
    let without_list = Gateway::connect_without_list(&harness).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(without_list.pick().await);
    }
    let best: BTreeSet<_> = open.iter().flat_map(|(_, destination)| destination).chain(&first[..1]).collect();
    assert!(open.iter().all(|(_, destination)| destination.len() == 1) && best.len() == 5, "{best:?}");

    let manifests = [
        ("pool.yaml".into(), POOL.into()),
        ("pod-1.yaml".into(), pod(1, true)),
        ("pod-2.yaml".into(), pod(2, true)),
    ];
    let harness = Harness::start(&manifests, |options| options.picker.endpoints_per_pick = 1).await;
    assert_eq!(Gateway::connect(&harness).await.pick().await.1.len(), 1);
}

#[tokio::test]
async fn any_end_of_a_stream_releases_its_pick() {
    let harness = Harness::with_pods(1).await;
    let gateway = Gateway::connect(&harness).await;
    let (mut finished, _) = gateway.pick().await;
    let (cancelled, _) = gateway.pick().await;
    let (kept, _) = gateway.pick().await;
    assert_eq!(harness.endpoint(1).open_picks, 3);
    finished.finish();
    finished.ended().await.unwrap();
    harness.until_endpoint(1, "the finished one is released", |view| view.open_picks == 2).await;
    drop(cancelled);
    harness.until_endpoint(1, "the cancelled one is released", |view| view.open_picks == 1).await;
    // The last stream ends with its connection.
    drop((kept, gateway));
    harness.until_endpoint(1, "the cut one is released", |view| view.open_picks == 0).await;
    assert_eq!(harness.metric("forebay_epp_open_streams").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_picks_see_each_other() {
    let harness = Harness::with_pods(4).await;
    let gateway = Gateway::connect(&harness).await;
    let picks = futures_util::future::join_all((0..100).map(|_| gateway.pick())).await;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, destination) in &picks {
        *counts.entry(&destination[0]).or_default() += 1;
    }
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [25; 4], "{counts:?}");
}

#[tokio::test]
async fn equal_scores_are_picked_round_robin() {
    let harness = Harness::with_pods(4).await;
    let gateway = Gateway::connect(&harness).await;
    let mut picked = Vec::new();
    for _ in 0..8 {
        picked.push(gateway.pick_and_end().await);
        harness
            .until("the pick is released", |endpoints| endpoints.iter().all(|view| view.open_picks == 0))
            .await;
    }
    assert_eq!(picked[..4], picked[4..]);
    assert_eq!(picked.iter().collect::<BTreeSet<_>>().len(), 4);
}

#[tokio::test]
async fn request_counts_at_the_endpoint_that_served_it() {
    let harness = Harness::with_pods(2).await;
    let (mut request, destination) = Gateway::connect(&harness).await.pick().await;
    request.send(response_headers("200", Some(&destination[1]))).await;
    request.reply().await;
    let open = |address: &str| {
        let views = harness.endpoints();
        views.iter().find(|view| view.endpoint.address.to_string() == address).unwrap().open_picks
    };
    assert_eq!((open(&destination[0]), open(&destination[1])), (0, 1));
    drop(request);
    harness
        .until("it is released there", |endpoints| endpoints.iter().all(|view| view.open_picks == 0))
        .await;
}

#[tokio::test]
async fn every_target_port_is_an_endpoint() {
    let pool = POOL.replace("[{ number: 8000 }]", "[{ number: 8000 }, { number: 8001 }]");
    let manifests =
        [("pool.yaml".into(), pool), ("six.yaml".into(), pod_at("six", "u", "qwen", "fd00::6", true))];
    let harness = Harness::start(&manifests, |_| {}).await;
    harness.until("both ports are known", |endpoints| endpoints.len() == 2).await;
    let (_open, mut picked) = Gateway::connect(&harness).await.pick().await;
    picked.sort();
    assert_eq!(picked, ["[fd00::6]:8000", "[fd00::6]:8001"]);
}

#[tokio::test]
async fn messages_out_of_order_fail_the_stream() {
    let harness = Harness::with_pods(1).await;
    let gateway = Gateway::connect(&harness).await;
    let mut request = gateway.open().await;
    request.send_message(Request::RequestBody(body("{}", true))).await;
    assert_eq!(request.next().await.unwrap_err().code(), Code::InvalidArgument);

    let (mut request, _) = gateway.pick().await;
    request.send(headers(false)).await;
    assert_eq!(request.next().await.unwrap_err().code(), Code::InvalidArgument);
    harness.until_endpoint(1, "the pick is released", |view| view.open_picks == 0).await;
}

#[tokio::test]
async fn observability_mode_gets_no_reply_and_no_pick() {
    let harness = Harness::with_pods(1).await;
    let mut request = Gateway::connect(&harness).await.open().await;
    request.send(ProcessingRequest { observability_mode: true, ..headers(false) }).await;
    request.finish();
    request.ended().await.unwrap();
    assert_eq!(harness.metric(r#"forebay_epp_picks_total{result="ok"}"#).await, 0.0);
}

#[tokio::test]
async fn message_over_the_limit_fails_only_its_stream() {
    let manifests = [("pool.yaml".into(), POOL.into()), ("pod-1.yaml".into(), pod(1, true))];
    let harness = Harness::start(&manifests, |options| options.max_message_bytes = 100_000).await;
    let gateway = Gateway::connect(&harness).await;
    let (mut large, _) = gateway.pick().await;
    let (mut small, _) = gateway.pick().await;
    large.send_message(Request::RequestBody(body(vec![0; 100_001], true))).await;
    assert!(matches!(large.next().await, Err(_) | Ok(None)));
    small.send_message(Request::RequestBody(body("{}", true))).await;
    assert!(chunk(&small.reply().await).end_of_stream);
    harness.until_endpoint(1, "the large one is released", |view| view.open_picks == 1).await;
}

#[tokio::test]
async fn rejects_streams_over_the_limit_until_one_ends() {
    let manifests = [("pool.yaml".into(), POOL.into()), ("pod-1.yaml".into(), pod(1, true))];
    let harness = Harness::start(&manifests, |options| options.max_streams = 2).await;
    // A connection has the same limit, so the third stream uses another connection.
    let (first, second) = (Gateway::connect(&harness).await, Gateway::connect(&harness).await);
    let (_one, _) = first.pick().await;
    let (two, _) = first.pick().await;
    let rejected = second.try_open().await.err().expect("a third stream");
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    assert_eq!(harness.metric(r#"forebay_epp_picks_total{result="too_many_requests_in_flight"}"#).await, 1.0);
    drop(two);
    harness.until_endpoint(1, "one has ended", |view| view.open_picks == 1).await;
    eventually_open(&second).await;
}

/// The permit is released shortly after the pick.
async fn eventually_open(gateway: &Gateway) {
    for _ in 0..1000 {
        if gateway.try_open().await.is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("no stream could be opened again");
}

/// Some gateways probe other services on the port.
#[tokio::test]
async fn other_methods_are_unimplemented_and_other_protocols_rejected() {
    let manifests = [("pool.yaml".into(), POOL.into()), ("pod-1.yaml".into(), pod(1, true))];
    let harness = Harness::start(&manifests, |_| {}).await;
    let address = harness.server.grpc_address;
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let status = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);

    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let get = http::Request::get(format!("http://{address}/")).body(()).unwrap();
    let (response, _) = sender.send_request(get, true).unwrap();
    assert_eq!(response.await.unwrap().status(), http::StatusCode::UNSUPPORTED_MEDIA_TYPE);
    driver.abort();
}

#[tokio::test]
async fn compressed_message_is_unimplemented() {
    let harness = Harness::with_pods(1).await;
    let address = harness.server.grpc_address;
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}{PROCESS}"))
        .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
        .body(())
        .unwrap();
    let (response, mut request_body) = sender.send_request(request, false).unwrap();
    // Compressed flag 1, length 0.
    request_body.send_data(bytes::Bytes::from_static(&[1, 0, 0, 0, 0]), true).unwrap();
    let mut response_body = response.await.unwrap().into_body();
    assert!(response_body.data().await.is_none());
    let trailers = response_body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers[STATUS], (Code::Unimplemented as i32).to_string().as_str());
    driver.abort();
}
