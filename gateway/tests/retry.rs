//! Retries.

use tokio::net::TcpListener;

use crate::support::client::{connect, exchange, get, read_response};
use crate::support::harness::{Harness, Running};
use crate::support::upstream::{Connection, Upstream};

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

async fn one_worker(service: Harness) -> Running {
    service
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .start_with(|config| config.workers = std::num::NonZeroUsize::new(1))
        .await
}

/// A request whose client connection is closed after it.
fn request(method: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Serves one request on a new connection, which the gateway keeps.
async fn kept(running: &Running, web: &Upstream) -> Connection {
    let serving = async {
        let mut pod = web.accept().await;
        pod.read_request().await;
        pod.respond(200, "kept").await;
        pod
    };
    let (response, pod) = tokio::join!(exchange(running.address(), request("GET", "")), serving);
    assert_eq!(response.text(), "kept");
    pod
}

#[tokio::test]
async fn a_request_that_was_received_whole_is_repeated_only_if_it_is_idempotent() {
    let web = Upstream::bind().await;
    let running = one_worker(Harness::new().service("web", web.port(), "")).await;
    for (method, is_repeated) in
        [("POST", false), ("PATCH", false), ("GET", true), ("PUT", true), ("DELETE", true)]
    {
        let mut pod = kept(&running, &web).await;
        let serving = async {
            assert_eq!(pod.read_request().await.text(), "body");
            drop(pod);
            if is_repeated {
                let mut pod = web.accept().await;
                assert_eq!(pod.read_request().await.text(), "body");
                pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nagain").await;
            }
        };
        let (response, ()) = tokio::join!(exchange(running.address(), request(method, "body")), serving);
        if is_repeated {
            assert_eq!((response.status, response.text()), (200, "again"), "{method}");
        } else {
            assert_eq!((response.status, response.code().as_str()), (502, "upstream_reset"), "{method}");
        }
    }
    running.until_metric(&retries("reused_connection_closed"), 3.0).await;
}

/// Like an engine whose keep-alive timeout is shorter than expected, or that restarts.
#[tokio::test]
async fn connections_that_were_closed_while_idle_are_not_used() {
    let web = Upstream::bind().await;
    let running = one_worker(Harness::new().service("web", web.port(), "")).await;
    for _ in 0..30 {
        drop(kept(&running, &web).await);
        let (response, _) = tokio::join!(exchange(running.address(), request("POST", "body")), async {
            let mut pod = web.accept().await;
            pod.read_request().await;
            pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        });
        assert_eq!((response.status, response.text()), (200, "ok"));
    }
    assert_eq!(running.metric(&retries("reused_connection_closed")).await, 0.0);
}

/// An HTTP/2 pod. Its first connection serves one request and resets the next one after its end.
async fn resetting(listener: TcpListener, reason: h2::Reason) {
    let mut connections = Vec::new();
    for is_first in [true, false] {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut count = 0;
        connections.push(tokio::spawn(async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                count += 1;
                let resets = is_first && count == 2;
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(data) = body.data().await {
                        let bytes = data.unwrap().len();
                        body.flow_control().release_capacity(bytes).unwrap();
                    }
                    if resets {
                        respond.send_reset(reason);
                    } else {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    }
                });
            }
        }));
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_http2_stream_is_repeated_if_the_endpoint_did_not_process_it() {
    for (reason, method, status) in [
        (h2::Reason::REFUSED_STREAM, "POST", 200),
        (h2::Reason::INTERNAL_ERROR, "POST", 502),
        (h2::Reason::INTERNAL_ERROR, "GET", 200),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let running = one_worker(Harness::new().service("web", port, "kubernetes.io/h2c")).await;
        let pod = tokio::spawn(resetting(listener, reason));
        assert_eq!(exchange(running.address(), request(method, "one")).await.status, 200);
        let response = exchange(running.address(), request(method, "two")).await;
        assert_eq!(response.status, status, "{reason} {method}");
        pod.abort();
    }
}
