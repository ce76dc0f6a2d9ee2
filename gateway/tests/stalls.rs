//! Clients that stall while their body is streamed to an endpoint.

use std::future::ready;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::support::client::{connect, read_response};
use crate::support::h2::H2Backend;
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::upstream::{Connection, Upstream};
use crate::support::within;

async fn start(harness: Harness) -> Running {
    harness.start_with(|config| config.client_body_timeout = Duration::from_millis(200)).await
}

/// A client that has sent the start of a body of `length` bytes.
async fn begun(running: &Running, length: usize) -> (Connection, String) {
    let mut client = connect(running.address()).await;
    let start = format!(r#"{{"model":"{QWEN}","messages":["#);
    client.write(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{start}")).await;
    (client, start)
}

/// A client, the start of whose body has reached the pod.
async fn passed_on(running: &Running, upstream: &Upstream) -> (Connection, Connection) {
    let (client, start) = begun(running, 1_000).await;
    let mut pod = upstream.accept().await;
    pod.read_head().await;
    pod.read_until(&start).await;
    (client, pod)
}

#[tokio::test]
async fn a_stalled_client_gets_a_timeout_and_the_pod_is_released() {
    let upstream = Upstream::bind().await;
    let running = start(Harness::new().pool("qwen", QWEN, &[upstream.port()], None)).await;
    let (mut client, mut pod) = passed_on(&running, &upstream).await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.code().as_str()), (408, "body_timeout"));
    assert_eq!(pod.read_to_end().await, b"");
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn a_response_in_flight_is_aborted() {
    let upstream = Upstream::bind().await;
    let running = start(Harness::new().pool("qwen", QWEN, &[upstream.port()], None)).await;
    let (mut client, mut pod) = passed_on(&running, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
    client.read_until("data:").await;
    let rest = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(!rest.contains("0\r\n\r\n"), "the response looks complete: {rest:?}");
    assert_eq!(pod.read_to_end().await, b"");
    running.until_metric(r#"forebay_gateway_errors_total{code="body_timeout"}"#, 1.0).await;
}

/// An HTTP/2 pod that reports whether each request arrived completely. It either starts a response at once that
/// never ends, or responds after the end of the request.
struct H2Pod {
    backend: H2Backend,
    is_whole: mpsc::Receiver<bool>,
}

impl H2Pod {
    async fn start(answers_at_once: bool) -> Self {
        let (ends, is_whole) = mpsc::channel(1);
        let backend = H2Backend::start(move |request| {
            let ends = ends.clone();
            // In its own task, because an aborted response cancels what it waits for.
            let reading =
                tokio::spawn(
                    async move { ends.send(request.into_body().collect().await.is_ok()).await.unwrap() },
                );
            async move {
                let body = if answers_at_once {
                    let first = stream::once(ready(Ok(Frame::data(Bytes::from_static(b"data:")))));
                    BodyExt::boxed(StreamBody::new(first.chain(stream::pending())))
                } else {
                    reading.await.unwrap();
                    BodyExt::boxed(Empty::new())
                };
                Ok(Response::new(body))
            }
        })
        .await;
        Self { backend, is_whole }
    }

    /// Waits for the end of the request, which must be aborted while its connection stays open.
    async fn let_go(mut self) {
        let is_whole = within("the request to end", self.is_whole.recv()).await;
        assert_eq!(is_whole, Some(false), "the body looks complete");
        self.backend.assert_none_ended();
    }
}

async fn start_with_h2(pod: &H2Pod) -> Running {
    let to_web = "{backendRefs: [{name: web, port: 80}]}";
    start(Harness::new().service("web", pod.backend.port, "kubernetes.io/h2c").route("r", to_web)).await
}

#[tokio::test]
async fn over_http2_only_its_stream_ends() {
    let pod = H2Pod::start(false).await;
    let running = start_with_h2(&pod).await;
    let (mut client, _) = begun(&running, 1_000).await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.code().as_str()), (408, "body_timeout"));
    pod.let_go().await;
}

#[tokio::test]
async fn over_http2_a_response_in_flight_is_aborted_for_the_same_reason() {
    let pod = H2Pod::start(true).await;
    let running = start_with_h2(&pod).await;
    let (mut client, _) = begun(&running, 1_000).await;
    client.read_until("data:").await;
    let rest = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(!rest.contains("0\r\n\r\n"), "the response looks complete: {rest:?}");
    running.until_metric(r#"forebay_gateway_errors_total{code="body_timeout"}"#, 1.0).await;
    pod.let_go().await;
}

#[tokio::test]
async fn over_http2_what_was_sent_is_not_held_until_the_answer_ends() {
    let mut pod = H2Pod::start(true).await;
    let running = start_with_h2(&pod).await;
    let (mut client, start) = begun(&running, 1_000).await;
    client.read_until("data:").await;
    client.write("x".repeat(1_000 - start.len())).await;
    assert_eq!(within("the request to end", pod.is_whole.recv()).await, Some(true));
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
    pod.backend.assert_none_ended();
}

/// Two clients time out while a pod does not read the body of a third one.
#[tokio::test]
async fn a_pod_that_does_not_read_causes_no_client_timeout() {
    let upstream = Upstream::bind().await;
    let running = start(Harness::new().pool("qwen", QWEN, &[upstream.port()], None)).await;
    let body = format!(r#"{{"model":"{QWEN}","messages":["{}"]}}"#, "x".repeat(32 << 20));
    let mut client = connect(running.address()).await;
    client.write(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    let Connection { stream, .. } = &mut client;
    let reading = async {
        let mut pod = upstream.accept().await;
        let mut request = pod.read_head().await;
        for _ in 0..2 {
            let (mut other, _) = begun(&running, 1_000).await;
            assert_eq!(read_response(&mut other).await.status, 408);
        }
        pod.read_body(&mut request).await;
        assert!(request.body == body.as_bytes(), "the body was changed");
        pod.respond(200, "ok").await;
    };
    let sending = async { within("room for the body", stream.write_all(body.as_bytes())).await.unwrap() };
    tokio::join!(sending, reading);
    assert_eq!(read_response(&mut client).await.text(), "ok");
}
