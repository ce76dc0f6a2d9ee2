//! Pickers that replace bodies (`CONTINUE_AND_REPLACE` of ext_proc).

use std::time::Duration;

use bytes::Bytes;
use forebay_gateway::ResponseBodies;
use forebay_grpc::proto::{
    BodyMutation, BodyResponse, CommonResponse, HeadersResponse, HttpHeaders, ProcessingResponse,
    StreamedBodyResponse, body_mutation::Mutation, common_response::ResponseStatus,
    processing_request::Request, processing_response::Response,
};

use crate::support::client::{connect, exchange, get, post, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{
    Phases, Picker, Reply, Seen, body_reply, pick, response_body_reply, response_headers_reply,
};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

async fn harness(upstream: &Upstream, picker: &Picker, response_bodies: ResponseBodies) -> Running {
    Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .route("r", "{backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}]}")
        .start_with(|config| {
            config.epp_response_body = response_bodies;
            config.picker_timeout = Duration::from_secs(2);
        })
        .await
}

fn whole(body: &'static str) -> Option<Mutation> {
    Some(Mutation::Body(Bytes::from_static(body.as_bytes())))
}

fn streamed(body: &'static str) -> Option<Mutation> {
    let body = Bytes::from_static(body.as_bytes());
    Some(Mutation::StreamedResponse(StreamedBodyResponse { body, end_of_stream: true }))
}

/// The reply with `CONTINUE_AND_REPLACE` and this mutation.
fn replacing(mut reply: ProcessingResponse, mutation: Option<Mutation>) -> ProcessingResponse {
    let (Some(Response::RequestHeaders(HeadersResponse { response }))
    | Some(Response::ResponseHeaders(HeadersResponse { response }))
    | Some(Response::RequestBody(BodyResponse { response }))
    | Some(Response::ResponseBody(BodyResponse { response }))) = &mut reply.response
    else {
        unreachable!("the replies of these tests have a status")
    };
    let common = response.get_or_insert_with(CommonResponse::default);
    common.set_status(ResponseStatus::ContinueAndReplace);
    common.body_mutation = mutation.map(|mutation| BodyMutation { mutation: Some(mutation) });
    reply
}

/// Decides on the headers, with this mutation of the body.
struct AtHeaders(String, Option<Mutation>);

impl Phases for AtHeaders {
    fn destination(&self) -> String {
        self.0.clone()
    }

    fn request_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
        vec![Ok(replacing(pick(&self.0), self.1.clone()))]
    }

    fn request_body(&self, _: &[Bytes], _: bool) -> Vec<Reply> {
        Vec::new()
    }
}

#[tokio::test]
async fn a_reply_to_request_headers_replaces_the_body() {
    let upstream = Upstream::bind().await;
    for (mutation, expected) in [
        (whole("another"), "another"),
        (Some(Mutation::ClearBody(true)), ""),
        // Without a body, the status only means that the picker wants no more messages.
        (None, CHAT),
        (Some(Mutation::ClearBody(false)), CHAT),
    ] {
        let picker = Picker::start(AtHeaders(upstream.address().to_string(), mutation.clone())).await;
        let running = harness(&upstream, &picker, ResponseBodies::Never).await;
        let (response, request) =
            tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
        assert_eq!((response.text(), request.text()), ("ok", expected), "{mutation:?}");
        running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
    }
}

/// The rest of the client's body is not waited for.
#[tokio::test]
async fn a_replaced_body_is_not_read_to_its_end() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(AtHeaders(upstream.address().to_string(), whole("another"))).await;
    let running = harness(&upstream, &picker, ResponseBodies::Never).await;
    let mut client = connect(running.address()).await;
    let start = format!(r#"{{"model":"{QWEN}","#);
    client.write(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{start}")).await;
    assert_eq!(upstream.answer_one("ok").await.text(), "another");
    assert_eq!(read_response(&mut client).await.text(), "ok");
}

#[tokio::test]
async fn a_request_without_body_gets_a_replacement() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(AtHeaders(upstream.address().to_string(), whole("a body"))).await;
    let running = harness(&upstream, &picker, ResponseBodies::Never).await;
    let (response, request) = tokio::join!(get(running.address(), "/v1/x"), upstream.answer_one("ok"));
    assert_eq!((response.text(), request.text()), ("ok", "a body"));
}

#[tokio::test]
async fn a_streamed_replacement_in_a_reply_to_headers_is_a_fault() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(AtHeaders(upstream.address().to_string(), streamed("another"))).await;
    let running = harness(&upstream, &picker, ResponseBodies::Never).await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (503, "picker_unavailable"));
}

/// Replies to the request body with these mutations, each with `CONTINUE_AND_REPLACE`.
struct AtBody(String, Vec<Option<Mutation>>);

impl Phases for AtBody {
    fn destination(&self) -> String {
        self.0.clone()
    }

    fn whole_body(&self, _: &[Bytes]) -> Vec<Reply> {
        let bodies = self.1.iter().map(|mutation| replacing(body_reply(None), mutation.clone()));
        [pick(&self.0)].into_iter().chain(bodies).map(Ok).collect()
    }
}

#[tokio::test]
async fn a_reply_to_the_request_body_replaces_it() {
    let upstream = Upstream::bind().await;
    for (mutation, expected) in [
        (whole("another"), "another"),
        (Some(Mutation::ClearBody(true)), ""),
        (streamed("in pieces"), "in pieces"),
        (None, CHAT),
    ] {
        let picker = Picker::start(AtBody(upstream.address().to_string(), vec![mutation.clone()])).await;
        let running = harness(&upstream, &picker, ResponseBodies::Never).await;
        let (response, request) =
            tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
        assert_eq!((response.text(), request.text()), ("ok", expected), "{mutation:?}");
    }
}

/// Replies to the response headers.
struct AtResponse(String, Option<Mutation>);

impl Phases for AtResponse {
    fn destination(&self) -> String {
        self.0.clone()
    }

    fn response_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
        vec![Ok(replacing(response_headers_reply(), self.1.clone()))]
    }
}

/// With and without relaying of response bodies.
#[tokio::test]
async fn a_reply_to_response_headers_replaces_the_body() {
    let upstream = Upstream::bind().await;
    for response_bodies in [ResponseBodies::Auto, ResponseBodies::Never] {
        for (mutation, expected) in [
            (whole("another"), "another"),
            (Some(Mutation::ClearBody(true)), ""),
            (None, "the pod's"),
            // A reply with streamed pieces is invalid and ignored.
            (streamed("another"), "the pod's"),
        ] {
            let mut picker =
                Picker::start(AtResponse(upstream.address().to_string(), mutation.clone())).await;
            let running = harness(&upstream, &picker, response_bodies).await;
            let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
            pod.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
            if expected == "the pod's" {
                pod.write("the pod's").await;
            }
            let response = read_response(&mut client).await;
            assert_eq!(
                (response.status, response.text()),
                (200, expected),
                "{response_bodies:?} {mutation:?}"
            );
            if expected != "the pod's" {
                assert_eq!(pod.read_to_end().await, b"", "the pod's connection is still open");
                loop {
                    let Seen::Message(message) = picker.seen().await else { break };
                    assert!(
                        !matches!(message.request, Some(Request::ResponseBody(_))),
                        "it was sent the body"
                    );
                }
            }
            running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
        }
    }
}

/// Replies to the pieces of the response body.
struct AtResponseBody(String, fn(&[Bytes], bool) -> Vec<Reply>);

impl Phases for AtResponseBody {
    fn destination(&self) -> String {
        self.0.clone()
    }

    fn response_body(&self, seen: &[Bytes], end_of_stream: bool) -> Vec<Reply> {
        (self.1)(seen, end_of_stream)
    }
}

#[tokio::test]
async fn a_reply_to_the_response_body_replaces_a_body_that_was_not_started() {
    let upstream = Upstream::bind().await;
    let at_end = |_: &[Bytes], end_of_stream: bool| {
        let reply = replacing(response_body_reply(None), whole("another"));
        if end_of_stream { vec![Ok(reply)] } else { Vec::new() }
    };
    let picker = Picker::start(AtResponseBody(upstream.address().to_string(), at_end)).await;
    let running = harness(&upstream, &picker, ResponseBodies::Auto).await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    let long = "x".repeat(1_000_000);
    let ((), response) = tokio::join!(pod.respond(200, &long), read_response(&mut client));
    assert_eq!(response.text(), "another");

    let too_late = |seen: &[Bytes], _: bool| {
        let reply = response_body_reply(None);
        vec![Ok(if seen.len() > 1 { replacing(reply, whole("another")) } else { reply })]
    };
    let picker = Picker::start(AtResponseBody(upstream.address().to_string(), too_late)).await;
    let running = harness(&upstream, &picker, ResponseBodies::Auto).await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
    client.read_until("one").await;
    pod.write("3\r\ntwo\r\n").await;
    client.read_until("two").await;
    pod.write("0\r\n\r\n").await;
    client.read_until("0\r\n\r\n").await;
    let bypassed = r#"forebay_gateway_picker_response_failures_total{outcome="bypassed"}"#;
    running.until_metric(bypassed, 1.0).await;
}
