//! Bounds of requests in flight and of request heads.

use std::num::NonZeroUsize;

use crate::support::client::{connect, exchange, post, post_with, read_response};
use crate::support::harness::{Harness, QWEN};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

#[tokio::test]
async fn requests_over_the_limit_are_refused_until_one_ends() {
    let upstream = Upstream::bind().await;
    let harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    let running = harness.start_with(|config| config.max_requests = NonZeroUsize::new(2).unwrap()).await;
    let (first, mut engine) = running.forwarded(CHAT, &upstream).await;
    let (_second, _other) = running.forwarded(CHAT, &upstream).await;
    let refused = exchange(running.address(), post(CHAT)).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "requests_exhausted"));
    assert!(refused.text().contains("2 requests are in flight"), "{}", refused.text());
    let mut first = first;
    engine.respond(200, "ok").await;
    assert_eq!(read_response(&mut first).await.status, 200);
    running.until_metric("forebay_gateway_active_requests", 1.0).await;
    first.write(post(CHAT)).await;
    engine.read_request().await;
}

#[tokio::test]
async fn large_heads_count_towards_the_hold_budget() {
    let upstream = Upstream::bind().await;
    let harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    let running = harness.start_with(|config| config.hold_total_bytes = 256 << 10).await;
    let large = post_with(&format!("X-Long: {}\r\n", "x".repeat(50 << 10)), CHAT);
    let mut waiting = connect(running.address()).await;
    waiting.write(&large).await;
    let mut engine = upstream.accept().await;
    engine.read_request().await;
    // A head is counted twice, and large holds leave a quarter of the budget to others.
    let refused = exchange(running.address(), &large).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "hold_budget_exhausted"));
    // Small heads are not counted.
    drop(running.forwarded(CHAT, &upstream).await);
    engine.respond(200, "ok").await;
    assert_eq!(read_response(&mut waiting).await.status, 200);
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn incomplete_large_heads_count_towards_the_hold_budget() {
    let upstream = Upstream::bind().await;
    let harness = Harness::new().pool("qwen", QWEN, &[upstream.port()], None);
    // Room for one of them: large holds leave a quarter of the budget to others.
    let running = harness.start_with(|config| config.hold_total_bytes = 256 << 10).await;
    let start = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}", "x".repeat(20 << 10));
    let mut held = connect(running.address()).await;
    held.write(&start).await;
    running.until_metric("forebay_gateway_hold_bytes", f64::from(128 << 10)).await;
    let mut second = connect(running.address()).await;
    second.write(&start).await;
    assert_eq!(second.read_to_end().await, b"", "closed");
    held.write("\r\n\r\n").await;
    assert_eq!(read_response(&mut held).await.code(), "route_not_found");
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

/// The buffer of the head would be kept for the next request.
#[tokio::test]
async fn a_connection_is_closed_after_a_large_head() {
    let running = Harness::new().pool("qwen", QWEN, &[1], None).start().await;
    for (bytes, is_closed) in [(8 << 10, false), (20 << 10, true)] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(bytes));
        let mut client = connect(running.address()).await;
        client.write(&request).await;
        let response = read_response(&mut client).await;
        assert_eq!(response.head.header("connection") == Some("close"), is_closed, "{bytes}");
    }
}
