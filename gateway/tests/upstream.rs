//! Failures of endpoints.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::support::client::{exchange, post, read_response};
use crate::support::harness::{Harness, QWEN};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

#[tokio::test]
async fn a_pod_that_hangs_up_is_a_502() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let hang_up = async {
        let mut pod = upstream.accept().await;
        pod.read_request().await;
    };
    let (response, ()) = tokio::join!(exchange(running.address(), post(CHAT)), hang_up);
    assert_eq!((response.status, response.code().as_str()), (502, "upstream_reset"));
    assert_eq!(response.json()["error"]["type"], "server_error");
}

#[tokio::test]
async fn a_pod_that_cannot_be_reached_is_a_502_and_one_that_is_not_there_a_503() {
    let port = Upstream::bind().await.port();
    let running = Harness::new().pool("qwen", QWEN, &[port], None).start().await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (502, "upstream_connect"));

    let mut harness = Harness::new().pool("qwen", QWEN, &[port], None);
    harness.manifests = harness.manifests.replace(r#"status: "True""#, r#"status: "False""#);
    let running = harness.start().await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (503, "no_ready_endpoint"));
    assert_eq!(response.head.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_pod_that_says_nothing_is_a_504() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.first_byte_timeout = Duration::from_millis(50))
        .await;
    let silent = async {
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pod.read_to_end().await
    };
    let (response, rest) = tokio::join!(exchange(running.address(), post(CHAT)), silent);
    assert_eq!((response.status, response.code().as_str(), rest.len()), (504, "upstream_timeout", 0));
}

#[tokio::test]
async fn closes_idle_connections_before_the_server() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.upstream_idle_timeout = Duration::from_millis(50))
        .await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.respond(200, "ok").await;
    read_response(&mut client).await;
    assert_eq!(pod.read_to_end().await, b"");
}

#[tokio::test]
async fn aborts_a_response_that_is_cut_off() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
    client.read_until("data:").await;
    pod.stream.shutdown().await.unwrap();
    drop(pod);
    let rest = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(!rest.contains("0\r\n\r\n"), "the response looks complete: {rest:?}");
    let label = format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="502"}}"#);
    running.until_metric(&label, 1.0).await;
}

#[tokio::test]
async fn a_response_without_length_ends_with_its_connection() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    drop(pod);
    assert_eq!(read_response(&mut client).await.text(), "until the end");
}

#[tokio::test]
async fn ignores_interim_responses() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
    pod.respond(201, "made").await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.text(), response.head.header("link")), (201, "made", None));
}

#[tokio::test]
async fn accepts_a_response_byte_by_byte() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.stream.set_nodelay(true).unwrap();
    let text =
        "HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for byte in text.chars() {
        pod.write(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    let response = read_response(&mut client).await;
    assert_eq!((response.text(), response.head.header("x-a")), ("abcde", Some("b")));
    // The connection was read exactly to the end of the response, so it is reused.
    client.write(post(CHAT)).await;
    assert_eq!(pod.read_request().await.text(), CHAT);
    pod.respond(200, "again").await;
    assert_eq!(read_response(&mut client).await.text(), "again");
}

#[tokio::test]
async fn what_is_no_response_is_a_502_and_its_connection_is_not_kept() {
    for text in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let upstream = Upstream::bind().await;
        let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
        let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
        pod.write(text).await;
        let response = read_response(&mut client).await;
        assert_eq!((response.status, response.code().as_str()), (502, "upstream_reset"), "{text}");
        assert_eq!(pod.read_to_end().await, b"", "{text}");
    }
}

/// Unexpected bytes would be read as the response to the next request.
#[tokio::test]
async fn does_not_reuse_a_connection_with_unexpected_data() {
    let upstream = Upstream::bind().await;
    let running = Harness::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    let answer = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    pod.write(&format!("{}{}", answer("mine"), answer("not mine"))).await;
    assert_eq!(read_response(&mut client).await.text(), "mine");
    assert_eq!(pod.read_to_end().await, b"");
    client.write(post(CHAT)).await;
    upstream.answer_one("the next").await;
    assert_eq!(read_response(&mut client).await.text(), "the next");
}

/// A setup whose route has these `timeouts`.
fn with_timeouts(upstream: &Upstream, timeouts: &str) -> Harness {
    let mut harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    let without = std::mem::take(&mut harness.manifests);
    harness.manifests =
        without.replace("    backendRefs:", &format!("    timeouts: {timeouts}\n    backendRefs:"));
    assert_ne!(harness.manifests, without);
    harness
}

#[tokio::test]
async fn route_timeouts_apply_before_the_response() {
    for (timeouts, code) in [
        ("{request: 300ms}", "request_timeout"),
        ("{request: 10s, backendRequest: 300ms}", "backend_request_timeout"),
    ] {
        let upstream = Upstream::bind().await;
        let running = with_timeouts(&upstream, timeouts).start().await;
        // The request may be aborted after half of it was sent.
        let silent = async { upstream.accept().await.read_to_end().await };
        let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), silent);
        assert_eq!((response.status, response.code().as_str()), (504, code), "{timeouts}");
    }
}

#[tokio::test]
async fn route_timeouts_apply_to_responses_in_flight() {
    for timeouts in ["{request: 1s}", "{request: 10s, backendRequest: 1s}"] {
        let upstream = Upstream::bind().await;
        let running = with_timeouts(&upstream, timeouts).start().await;
        let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
        pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
        client.read_until("data:").await;
        let rest = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(!rest.contains("0\r\n"), "the response looks complete: {rest:?}");
        assert_eq!(pod.read_to_end().await, b"");
        let label =
            format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="504"}}"#);
        running.until_metric(&label, 1.0).await;
    }
}

#[tokio::test]
async fn a_timeout_of_zero_disables_it() {
    let upstream = Upstream::bind().await;
    let running = with_timeouts(&upstream, "{request: 0s}").start().await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}

#[tokio::test]
async fn aborts_an_idle_stream() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.stream_idle_timeout = Duration::from_millis(100))
        .await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    pod.write("6\r\ndata:\n\r\n").await;
    client.read_until("data:").await;
    assert!(!client.read_to_end().await.ends_with(b"0\r\n\r\n"), "the response looks complete");
    assert_eq!(pod.read_to_end().await, b"");
    running.until_metric(r#"forebay_gateway_errors_total{code="upstream_idle"}"#, 1.0).await;
}
