//! Headers that the picker adds to responses, over real gRPC.

#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{
    Harness, POOL,
    gateway::{Gateway, body, destination, headers, headers_before_body, response_headers},
    pod,
};
use forebay_epp::config::{Config, Options};
use forebay_grpc::names::METADATA_FOREBAY;
use forebay_grpc::proto::{ProcessingResponse, processing_request::Request, processing_response::Response};

/// Without this hint, a gateway waits for the picker's replies to the response.
fn says_response_unchanged(reply: &ProcessingResponse) -> bool {
    reply.dynamic_metadata.as_ref().unwrap().fields.contains_key(METADATA_FOREBAY)
}

/// Names and values of the headers that a reply to response headers sets.
fn set_headers(reply: &ProcessingResponse) -> Vec<(String, String)> {
    let Some(Response::ResponseHeaders(headers)) = &reply.response else { panic!("{reply:?}") };
    let mutation = headers.response.as_ref().and_then(|response| response.header_mutation.as_ref());
    let set = mutation.into_iter().flat_map(|mutation| &mutation.set_headers);
    set.filter_map(|option| option.header.as_ref())
        .map(|header| (header.key.clone(), String::from_utf8(header.raw_value.to_vec()).unwrap()))
        .collect()
}

#[tokio::test]
async fn gateway_waits_for_a_session_token() {
    let document = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: session-affinity-scorer\n";
    let config = Config::parse(document, Options::default()).unwrap();
    let pipeline = Arc::new(config.pipeline);
    let pods = [("pool.yaml".into(), POOL.into()), ("pod-1.yaml".into(), pod(1, true))];
    let harness = Harness::start(&pods, |options| options.picker.pipelines = pipeline.into()).await;
    let mut request = Gateway::connect(&harness).await.open().await;
    request.send(headers(true)).await;
    assert!(!says_response_unchanged(&request.reply().await));
    request.send(response_headers("200", None)).await;
    assert_eq!(set_headers(&request.reply().await)[0].0, "x-session-token");
}

#[tokio::test]
async fn headers_of_the_conformance_suite_need_a_flag() {
    let pods: Vec<_> = std::iter::once(("pool.yaml".to_owned(), POOL.to_owned()))
        .chain((1..=3).map(|n| (format!("{n}.yaml"), pod(n, true))))
        .collect();
    for is_conformance_test in [false, true] {
        let harness =
            Harness::start(&pods, |options| options.obeyed.conformance_test = is_conformance_test).await;
        let gateway = Gateway::connect(&harness).await;
        let mut picked = BTreeSet::new();
        for _ in 0..3 {
            let mut request = gateway.open().await;
            request.send(headers_before_body(&[("test-epp-endpoint-selection", "127.0.1.2")])).await;
            request.send_message(Request::RequestBody(body("{}", true))).await;
            let reply = request.reply().await;
            assert_eq!(says_response_unchanged(&reply), !is_conformance_test);
            picked.insert(destination(&reply)[0].clone());
            request.reply().await;
            request.send(response_headers("200", Some("127.0.1.3:8000"))).await;
            let served = [("x-conformance-test-served-endpoint".to_owned(), "127.0.1.3:8000".to_owned())];
            let expected: &[_] = if is_conformance_test { &served } else { &[] };
            assert_eq!(set_headers(&request.reply().await), expected);
        }
        assert_eq!(picked.len(), if is_conformance_test { 1 } else { 3 }, "{picked:?}");
    }
}
