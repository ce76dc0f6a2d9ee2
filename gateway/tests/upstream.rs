//! Model servers that fail.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::support::client::{exchange, post, read_response};
use crate::support::stage::{QWEN, Stage};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

#[tokio::test]
async fn a_pod_that_hangs_up_is_a_502() {
    let upstream = Upstream::bind().await;
    let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
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
    let running = Stage::new().pool("qwen", QWEN, &[port], None).start().await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (502, "upstream_connect"));

    let mut stage = Stage::new().pool("qwen", QWEN, &[port], None);
    stage.manifests = stage.manifests.replace(r#"status: "True""#, r#"status: "False""#);
    let running = stage.start().await;
    let response = exchange(running.address(), post(CHAT)).await;
    assert_eq!((response.status, response.code().as_str()), (503, "no_ready_endpoint"));
    assert_eq!(response.head.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_pod_that_says_nothing_is_a_504() {
    let upstream = Upstream::bind().await;
    let running = Stage::new()
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

/// The pod reads the second request and closes the kept connection without a byte: as when it ends as idle.
#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_is_replaced() {
    let upstream = Upstream::bind().await;
    let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut kept) = running.forwarded(CHAT, &upstream).await;
    kept.respond(200, "first").await;
    assert_eq!(read_response(&mut client).await.text(), "first");
    client.write(post(CHAT)).await;
    kept.read_request().await;
    drop(kept);
    let request = upstream.answer_one("second").await;
    assert_eq!(request.text(), CHAT);
    assert_eq!(read_response(&mut client).await.text(), "second");
    running.until_metric(r#"forebay_gateway_retries_total{reason="reused_connection_closed"}"#, 1.0).await;
}

#[tokio::test]
async fn a_kept_connection_is_closed_before_the_server_would() {
    let upstream = Upstream::bind().await;
    let running = Stage::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.upstream_idle_timeout = Duration::from_millis(50))
        .await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.respond(200, "ok").await;
    read_response(&mut client).await;
    assert_eq!(pod.read_to_end().await, b"");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_broken_off() {
    let upstream = Upstream::bind().await;
    let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
    client.read_until("data:").await;
    pod.stream.shutdown().await.unwrap();
    drop(pod);
    let rest = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(!rest.contains("0\r\n\r\n"), "the client took it for whole: {rest:?}");
    let label = format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="502"}}"#);
    running.until_metric(&label, 1.0).await;
}

#[tokio::test]
async fn a_response_without_a_length_ends_with_its_connection() {
    let upstream = Upstream::bind().await;
    let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    drop(pod);
    assert_eq!(read_response(&mut client).await.text(), "until the end");
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let upstream = Upstream::bind().await;
    let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
    pod.respond(201, "made").await;
    let response = read_response(&mut client).await;
    assert_eq!((response.status, response.text(), response.head.header("link")), (201, "made", None));
}

#[tokio::test]
async fn a_response_may_come_byte_by_byte() {
    let upstream = Upstream::bind().await;
    let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
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
    // The connection was read to the end of the response, and no further: it is used again.
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
    ] {
        let upstream = Upstream::bind().await;
        let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
        let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
        pod.write(text).await;
        let response = read_response(&mut client).await;
        assert_eq!((response.status, response.code().as_str()), (502, "upstream_reset"), "{text}");
        assert_eq!(pod.read_to_end().await, b"", "{text}");
    }
}

/// Bytes that nobody asked for would be taken for the answer to the next request.
#[tokio::test]
async fn a_server_that_says_more_than_it_was_asked_is_not_asked_again() {
    let upstream = Upstream::bind().await;
    let running = Stage::new().pool("qwen", QWEN, &[upstream.port()], None).start().await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    let answer = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    pod.write(&format!("{}{}", answer("mine"), answer("not mine"))).await;
    assert_eq!(read_response(&mut client).await.text(), "mine");
    assert_eq!(pod.read_to_end().await, b"");
    client.write(post(CHAT)).await;
    upstream.answer_one("the next").await;
    assert_eq!(read_response(&mut client).await.text(), "the next");
}

/// A stage whose route has these `timeouts`.
fn with_timeouts(upstream: &Upstream, timeouts: &str) -> Stage {
    let mut stage = Stage::new().pool("qwen", QWEN, &[upstream.port()], None);
    let without = std::mem::take(&mut stage.manifests);
    stage.manifests =
        without.replace("    backendRefs:", &format!("    timeouts: {timeouts}\n    backendRefs:"));
    assert_ne!(stage.manifests, without);
    stage
}

#[tokio::test]
async fn a_routes_timeouts_end_requests_that_are_not_answered() {
    for (timeouts, code) in [
        ("{request: 300ms}", "request_timeout"),
        ("{request: 10s, backendRequest: 300ms}", "backend_request_timeout"),
    ] {
        let upstream = Upstream::bind().await;
        let running = with_timeouts(&upstream, timeouts).start().await;
        // The request may be given up with half of it sent.
        let silent = async { upstream.accept().await.read_to_end().await };
        let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), silent);
        assert_eq!((response.status, response.code().as_str()), (504, code), "{timeouts}");
    }
}

#[tokio::test]
async fn a_routes_timeouts_end_responses_that_have_begun() {
    for timeouts in ["{request: 1s}", "{request: 10s, backendRequest: 1s}"] {
        let upstream = Upstream::bind().await;
        let running = with_timeouts(&upstream, timeouts).start().await;
        let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
        pod.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n").await;
        client.read_until("data:").await;
        let rest = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(!rest.contains("0\r\n"), "the response looks whole: {rest:?}");
        assert_eq!(pod.read_to_end().await, b"");
        let label =
            format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="504"}}"#);
        running.until_metric(&label, 1.0).await;
    }
}

#[tokio::test]
async fn a_timeout_of_zero_is_none() {
    let upstream = Upstream::bind().await;
    let running = with_timeouts(&upstream, "{request: 0s}").start().await;
    let (response, _) = tokio::join!(exchange(running.address(), post(CHAT)), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
}

#[tokio::test]
async fn a_stream_that_says_nothing_more_is_broken_off() {
    let upstream = Upstream::bind().await;
    let running = Stage::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.stream_idle_timeout = Duration::from_millis(100))
        .await;
    let (mut client, mut pod) = running.forwarded(CHAT, &upstream).await;
    pod.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    pod.write("6\r\ndata:\n\r\n").await;
    client.read_until("data:").await;
    assert!(!client.read_to_end().await.ends_with(b"0\r\n\r\n"), "the response ended as if it were whole");
    assert_eq!(pod.read_to_end().await, b"");
    running.until_metric(r#"forebay_gateway_errors_total{code="upstream_idle"}"#, 1.0).await;
}
