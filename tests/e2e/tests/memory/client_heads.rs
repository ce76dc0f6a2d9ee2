//! Request heads: those that have not ended, and those of requests that wait.

use std::net::SocketAddr;

use bytes::Bytes;
use forebay_e2e::harness;
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
    for _ in 0..4_000 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The first request gives the connection a place.
        let _ = stream.write_all(whole.as_bytes()).await;
        attack::reply(&mut stream).await;
        attack::write(&mut stream, head.as_bytes()).await;
        connections.push(stream);
    }
    assert_eq!(harness::get(address, "/v1/models").unwrap().0, 200);
    survived("4,000 connections with 60 KiB of a head", harness.limited_gateway());
}

/// A pod that accepts requests and does not answer.
async fn silent_pod(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let mut accepted = Vec::new();
    loop {
        accepted.push(listener.accept().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_waiting_requests_are_bounded() {
    let Some(mut harness) = start(0) else { return };
    let pod = tokio::spawn(silent_pod(harness.announce_pod(POOL, 200).unwrap()));
    let address = harness.network.gateway();
    attack::until_served(address).await;
    let mut connections = Vec::new();
    let long = "x".repeat(50 << 10);
    for _ in 0..48 {
        let (send, reading) = attack::http2(address, 1 << 16).await;
        let mut send = send.ready().await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..1_000 {
            let request = http::Request::post(format!("http://{address}/v1/chat/completions"))
                .header("content-type", "application/json")
                .header("x-long", &long)
                .body(())
                .unwrap();
            let Ok((response, mut body)) = send.send_request(request, false) else { break };
            let _ = body.send_data(Bytes::from_static(attack::BODY.as_bytes()), true);
            streams.push((response, body));
        }
        connections.push((send, streams, reading));
    }
    harness.limited_gateway().unwrap().settle().await;
    survived("48,000 requests with 50 KiB heads that wait", harness.limited_gateway());
    for (_, _, reading) in connections {
        reading.abort();
    }
    pod.abort();
}
