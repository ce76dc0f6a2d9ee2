//! Replies of pickers in the response phases, and immediate responses in every phase.

use std::sync::Mutex;

use bytes::Bytes;
use forebay_grpc::proto::{
    CommonResponse, HeadersResponse, HttpHeaders, ProcessingResponse, processing_response,
};
use tokio::sync::mpsc;

use crate::support::client::{exchange, get, post};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Phases, Picker, Reply, immediate, pick, set_headers};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

async fn harness(upstream: &Upstream, picker: &Picker) -> Running {
    Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.picker_timeout = std::time::Duration::from_secs(2))
        .await
}

/// A reply to response headers that sets headers.
fn set_response_headers(headers: &[(&str, &str)]) -> ProcessingResponse {
    let Some(processing_response::Response::RequestHeaders(HeadersResponse { response })) =
        set_headers(headers).response
    else {
        unreachable!("set_headers gives a reply to request headers")
    };
    let response = response.map(|common| CommonResponse { clear_route_cache: false, ..common });
    let response = processing_response::Response::ResponseHeaders(HeadersResponse { response });
    ProcessingResponse { response: Some(response), ..ProcessingResponse::default() }
}

struct AtResponse<F> {
    destination: String,
    reply: F,
}

impl<F: Fn() -> Vec<Reply> + Send + Sync + 'static> Phases for AtResponse<F> {
    fn destination(&self) -> String {
        self.destination.clone()
    }

    fn response_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
        (self.reply)()
    }
}

/// The reference picker sets all response headers again, including the status and the length.
#[tokio::test]
async fn applies_response_header_mutations() {
    let upstream = Upstream::bind().await;
    let reply = || {
        vec![Ok(set_response_headers(&[
            (":status", "500"),
            ("content-length", "1"),
            ("x-pod", "changed"),
            ("x-conformance-test-served-endpoint", "10.0.0.1:3000"),
        ]))]
    };
    let picker = Picker::start(AtResponse { destination: upstream.address().to_string(), reply }).await;
    let running = harness(&upstream, &picker).await;
    let pod = async {
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pod.write("HTTP/1.1 200 OK\r\nx-pod: 1\r\ncontent-length: 5\r\n\r\nwhole").await;
    };
    let (response, ()) = tokio::join!(exchange(running.address(), post(CHAT)), pod);
    assert_eq!((response.status, response.text()), (200, "whole"));
    assert_eq!(response.head.header("x-pod"), Some("changed"));
    assert_eq!(response.head.header("x-conformance-test-served-endpoint"), Some("10.0.0.1:3000"));
}

#[tokio::test]
async fn an_immediate_response_replaces_the_response() {
    let upstream = Upstream::bind().await;
    let reply = || vec![Ok(immediate(429, "evicted"))];
    let picker = Picker::start(AtResponse { destination: upstream.address().to_string(), reply }).await;
    let running = harness(&upstream, &picker).await;
    let mut pod = None;
    let serving = async {
        let mut connection = upstream.accept().await;
        connection.read_request().await;
        connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        pod = Some(connection);
    };
    let (response, ()) = tokio::join!(exchange(running.address(), post(CHAT)), serving);
    assert_eq!((response.status, response.text()), (429, "evicted"));
    assert_eq!(pod.unwrap().read_to_end().await, b"", "the pod's connection is still open");
}

#[tokio::test]
async fn a_picker_that_does_not_reply_to_the_response_does_not_block_it() {
    let upstream = Upstream::bind().await;
    let picker =
        Picker::start(AtResponse { destination: upstream.address().to_string(), reply: Vec::new }).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.picker_timeout = std::time::Duration::from_millis(100))
        .await;
    let request = post(CHAT);
    let (response, _) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}

#[tokio::test]
async fn an_eviction_aborts_a_response_in_flight() {
    struct Evicting(String, Mutex<Option<mpsc::Receiver<Reply>>>);
    impl Phases for Evicting {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn later(&self) -> Option<mpsc::Receiver<Reply>> {
            self.1.lock().unwrap().take()
        }
    }
    let upstream = Upstream::bind().await;
    let (evict, later) = mpsc::channel(1);
    let picker = Picker::start(Evicting(upstream.address().to_string(), Mutex::new(Some(later)))).await;
    let running = harness(&upstream, &picker).await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
    client.read_until("data:").await;
    evict.send(Ok(immediate(429, ""))).await.unwrap();
    let rest = client.read_to_end().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the response looks complete");
    assert_eq!(pod.read_to_end().await, b"");
    running
        .until_metric(
            &format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="429"}}"#),
            1.0,
        )
        .await;
}

#[tokio::test]
async fn a_reply_to_the_headers_alone_is_enough() {
    struct AtHeaders;
    impl Phases for AtHeaders {
        fn destination(&self) -> String {
            String::new()
        }
        fn request_headers(&self, _: &HttpHeaders) -> Vec<Reply> {
            vec![Ok(immediate(403, "no"))]
        }
        fn request_body(&self, _: &[Bytes], _: bool) -> Vec<Reply> {
            Vec::new()
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(AtHeaders).await;
    let running = harness(&upstream, &picker).await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.text()), (403, "no"));
    // Also without a body.
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailOpen")))
        .route("r", "{backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}]}")
        .start()
        .await;
    assert_eq!(get(running.address(), "/version").await.status, 403);
}

/// A destination in the header or in the metadata is enough.
#[tokio::test]
async fn accepts_a_destination_in_the_metadata_alone() {
    struct InMetadata(String);
    impl Phases for InMetadata {
        fn destination(&self) -> String {
            self.0.clone()
        }
        fn whole_body(&self, _: &[Bytes]) -> Vec<Reply> {
            let both = pick(&self.0);
            let only = ProcessingResponse { response: set_headers(&[]).response, ..both };
            vec![Ok(only), Ok(crate::support::picker::body_reply(None))]
        }
    }
    let upstream = Upstream::bind().await;
    let picker = Picker::start(InMetadata(upstream.address().to_string())).await;
    let running = harness(&upstream, &picker).await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}
