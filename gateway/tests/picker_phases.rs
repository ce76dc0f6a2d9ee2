//! What pickers say in the phases of the response, and answers of their own in every phase.

use std::sync::Mutex;

use bytes::Bytes;
use forebay_grpc::proto::{
    CommonResponse, HeadersResponse, HttpHeaders, ProcessingResponse, processing_response,
};
use tokio::sync::mpsc;

use crate::support::client::{exchange, get, post};
use crate::support::picker::{Phases, Picker, Reply, immediate, pick, set_headers};
use crate::support::stage::{QWEN, Running, Stage};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

async fn stage(upstream: &Upstream, picker: &Picker) -> Running {
    Stage::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.picker_timeout = std::time::Duration::from_secs(2))
        .await
}

/// A headers reply of the response's phase that sets headers.
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

/// The reference picker sets all headers of the response again, the status and the length among them.
#[tokio::test]
async fn response_headers_are_changed_as_told() {
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
    let running = stage(&upstream, &picker).await;
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
async fn an_answer_in_place_of_the_response() {
    let upstream = Upstream::bind().await;
    let reply = || vec![Ok(immediate(429, "evicted"))];
    let picker = Picker::start(AtResponse { destination: upstream.address().to_string(), reply }).await;
    let running = stage(&upstream, &picker).await;
    let mut pod = None;
    let serving = async {
        let mut connection = upstream.accept().await;
        connection.read_request().await;
        connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        pod = Some(connection);
    };
    let (response, ()) = tokio::join!(exchange(running.address(), post(CHAT)), serving);
    assert_eq!((response.status, response.text()), (429, "evicted"));
    assert_eq!(pod.unwrap().read_to_end().await, b"", "the pod goes on");
}

#[tokio::test]
async fn a_picker_that_says_nothing_to_the_response_does_not_keep_it() {
    let upstream = Upstream::bind().await;
    let picker =
        Picker::start(AtResponse { destination: upstream.address().to_string(), reply: Vec::new }).await;
    let running = Stage::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| config.picker_timeout = std::time::Duration::from_millis(100))
        .await;
    let request = post(CHAT);
    let (response, _) = tokio::join!(exchange(running.address(), request), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}

#[tokio::test]
async fn a_running_response_is_broken_off_when_it_is_evicted() {
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
    let running = stage(&upstream, &picker).await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
    client.read_until("data:").await;
    evict.send(Ok(immediate(429, ""))).await.unwrap();
    let rest = client.read_to_end().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the response ended as if it were whole");
    assert_eq!(pod.read_to_end().await, b"");
    running
        .until_metric(
            &format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="429"}}"#),
            1.0,
        )
        .await;
}

#[tokio::test]
async fn an_answer_to_the_headers_alone() {
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
    let running = stage(&upstream, &picker).await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.text()), (403, "no"));
    // Also where there is no body at all.
    let running = Stage::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailOpen")))
        .route("r", "{backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: qwen}]}")
        .start()
        .await;
    assert_eq!(get(running.address(), "/version").await.status, 403);
}

/// A destination in one of its two places is enough.
#[tokio::test]
async fn a_destination_in_the_metadata_alone() {
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
    let running = stage(&upstream, &picker).await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}
