//! Request heads: those that have not ended, and those of requests that wait.

use std::net::SocketAddr;

use bytes::Bytes;
use forebay_e2e::{TIMEOUT, harness};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::{POOL, attack, start, survived};

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_do_not_end_are_bounded() {
    let Some(mut harness) = start(1) else { return };
    let address = harness.network.gateway();
    let head = format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nX-Long: {}", "x".repeat(60 << 10));
    let whole = format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut connections = Vec::new();
    for _ in 0..8_000 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The first request gives the connection a place.
        let _ = stream.write_all(whole.as_bytes()).await;
        attack::reply(&mut stream, TIMEOUT).await;
        attack::write(&mut stream, head.as_bytes()).await;
        connections.push(stream);
    }
    assert_eq!(harness::get(address, "/v1/models").unwrap().0, 200);
    survived("8,000 connections with 60 KiB of a head", harness.limited_gateway());
}

/// hyper keeps its buffer for the next request.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_no_large_heads() {
    let Some(mut harness) = start(1) else { return };
    let address = harness.network.gateway();
    let before = harness.limited_gateway().unwrap().peak_bytes().unwrap();
    let head =
        format!("GET /v1/models HTTP/1.1\r\nHost: {address}\r\nX-Long: {}\r\n\r\n", "x".repeat(60 << 10));
    let mut connections = Vec::new();
    for _ in 0..2_000 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        attack::write(&mut stream, head.as_bytes()).await;
        assert_eq!(attack::reply(&mut stream, TIMEOUT).await, attack::Reply::Status(200));
        connections.push(stream);
    }
    let peak = survived("2,000 idle connections after a head of 60 KiB", harness.limited_gateway());
    let per_connection = (peak - before) / 2_000;
    assert!(per_connection < 24 << 10, "{per_connection} bytes per connection");
}

/// A pod that accepts requests and does not answer.
async fn silent_pod(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let mut accepted = Vec::new();
    loop {
        accepted.push(listener.accept().await.unwrap());
    }
}

/// Requests of which each waits for a pod, with `headers` headers of `bytes` each.
async fn waiting(connections: usize, headers: usize, bytes: usize) {
    let Some(mut harness) = start(0) else { return };
    let pod = tokio::spawn(silent_pod(harness.announce_pod(POOL, 200).unwrap()));
    let address = harness.network.gateway();
    let mut held = Vec::new();
    let value = HeaderValue::from_str(&"x".repeat(bytes)).unwrap();
    let name = |at| HeaderName::try_from(format!("x-{at}")).unwrap();
    let extra: HeaderMap = (0..headers).map(|at| (name(at), value.clone())).collect();
    for _ in 0..connections {
        let Some((mut send, reading)) = attack::http2(address, 1 << 16).await else { break };
        let mut streams = Vec::new();
        for _ in 0..1_000 {
            let mut request = http::Request::post(format!("http://{address}/v1/chat/completions"))
                .header("content-type", "application/json")
                .body(())
                .unwrap();
            request.headers_mut().extend(extra.clone());
            let Ok((response, mut body)) = send.send_request(request, false) else { break };
            let _ = body.send_data(Bytes::from_static(attack::BODY.as_bytes()), true);
            streams.push((response, body));
        }
        held.push((send, streams, reading));
    }
    harness.limited_gateway().unwrap().settle().await;
    let attack = format!(
        "{connections} connections of 1,000 requests that wait, each with {headers} headers of {bytes} bytes"
    );
    survived(&attack, harness.limited_gateway());
    assert_eq!(harness::get(harness.network.gateway_admin(), "/healthz").unwrap().0, 200);
    for (_, _, reading) in held {
        reading.abort();
    }
    pod.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_waiting_requests_are_bounded() {
    waiting(48, 1, 50 << 10).await;
}

/// A header takes more memory than its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn heads_with_many_headers_are_bounded() {
    waiting(12, 1_500, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_are_bounded() {
    waiting(48, 1, 10).await;
}
