//! Retries.

use crate::support::client::{connect, exchange, get, read_response};
use crate::support::harness::{Harness, Running};
use crate::support::upstream::Upstream;

async fn harness(web: &Upstream, retry: &str) -> Running {
    let rule = format!("{{{retry} backendRefs: [{{name: web, port: 80}}]}}");
    Harness::new().service("web", web.port(), "").route("r", &rule).start().await
}

fn retries(reason: &str) -> String {
    format!(r#"forebay_gateway_retries_total{{reason="{reason}"}}"#)
}

#[tokio::test]
async fn retries_a_status_of_the_policy_with_the_whole_body() {
    let web = Upstream::bind().await;
    let running = harness(&web, "retry: {attempts: 2, codes: [503], backoff: 1ms},").await;
    let body = "x".repeat(200_000);
    let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let pod = async {
        for status in [503, 503, 200] {
            let mut pod = web.accept().await;
            let request = pod.read_request().await;
            assert!(request.text() == body, "attempt with {status} had another body");
            pod.respond(status, "answer").await;
        }
    };
    let (response, ()) = tokio::join!(exchange(running.address(), &request), pod);
    assert_eq!((response.status, response.text()), (200, "answer"));
    running.until_metric(&retries("policy"), 2.0).await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn forwards_the_last_response_when_retries_are_exhausted() {
    let web = Upstream::bind().await;
    let running = harness(&web, "retry: {attempts: 1, codes: [500], backoff: 1ms},").await;
    let pod = async {
        for body in ["first", "second"] {
            let mut pod = web.accept().await;
            pod.read_request().await;
            pod.respond(500, body).await;
        }
    };
    let (response, ()) = tokio::join!(get(running.address(), "/"), pod);
    assert_eq!((response.status, response.text()), (500, "second"));
}

#[tokio::test]
async fn retries_a_broken_connection_only_with_a_policy() {
    let web = Upstream::bind().await;
    let running = harness(&web, "retry: {attempts: 1, backoff: 1ms},").await;
    let pod = async {
        web.accept().await.read_request().await;
        web.answer_one("ok").await
    };
    let (response, _) = tokio::join!(get(running.address(), "/"), pod);
    assert_eq!(response.text(), "ok");

    let running = harness(&web, "").await;
    let pod = async {
        web.accept().await.read_request().await;
    };
    let (response, ()) = tokio::join!(get(running.address(), "/"), pod);
    assert_eq!(response.code(), "upstream_reset");
}

#[tokio::test]
async fn sends_a_streamed_body_again_from_its_start() {
    let web = Upstream::bind().await;
    let running = harness(&web, "").await;
    let mut client = connect(running.address()).await;
    let post = |length: usize| format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    client.write(format!("{}one", post(3))).await;
    let mut pod = web.accept().await;
    pod.read_request().await;
    pod.respond(200, "one").await;
    assert_eq!(read_response(&mut client).await.text(), "one");
    // The reused connection closes after half of the body, as if the server had just
    // closed it as idle.
    client.write(format!("{}first", post(11))).await;
    pod.read_until("first").await;
    drop(pod);
    let mut pod = web.accept().await;
    pod.read_until("first").await;
    client.write("second").await;
    pod.read_until("second").await;
    pod.respond(200, "two").await;
    assert_eq!(read_response(&mut client).await.text(), "two");
    running.until_metric(&retries("reused_connection_closed"), 1.0).await;
    running.until_metric("forebay_gateway_hold_bytes", 0.0).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_to_be_kept_gets_a_new_connection() {
    let web = Upstream::bind().await;
    let rule = "{backendRefs: [{name: web, port: 80}]}";
    let running = Harness::new()
        .service("web", web.port(), "")
        .route("r", rule)
        .start_with(|config| config.replay_bytes = 10)
        .await;
    let (response, _) = tokio::join!(get(running.address(), "/"), web.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n{}", "x".repeat(11));
    let (response, request) = tokio::join!(exchange(running.address(), request), web.answer_one("ok"));
    assert_eq!((response.text(), request.body.len()), ("ok", 11));
}
