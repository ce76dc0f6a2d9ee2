//! Attacks on the picker by gateways.

use std::net::SocketAddr;

use bytes::Bytes;
use forebay_grpc::{
    CONTENT_TYPE, PROCESS,
    proto::{HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest, processing_request::Request},
};
use prost::Message as _;

use crate::{attack, start, survived};

fn framed(request: Request) -> Vec<u8> {
    let message =
        ProcessingRequest { request: Some(request), ..ProcessingRequest::default() }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat()
}

/// Request headers of which one has `bytes`.
fn headers(bytes: usize) -> Vec<u8> {
    let header = |key: &str, value: Vec<u8>| HeaderValue {
        key: key.into(),
        raw_value: value.into(),
        ..HeaderValue::default()
    };
    let headers = vec![
        header(":path", b"/v1/chat/completions".to_vec()),
        header(":method", b"POST".to_vec()),
        header("x-long", vec![b'x'; bytes]),
    ];
    framed(Request::RequestHeaders(HttpHeaders {
        headers: Some(HeaderMap { headers }),
        end_of_stream: false,
    }))
}

/// Sends `start` on as many streams of as many connections. Nothing is read of the replies.
async fn flood(
    picker: SocketAddr,
    connections: usize,
    streams: usize,
    start: &Bytes,
) -> Vec<impl Sized + use<>> {
    let mut held = Vec::new();
    for _ in 0..connections {
        let Some((mut send, reading)) = attack::http2(picker, 0).await else { break };
        for _ in 0..streams {
            let request = http::Request::post(format!("http://picker{PROCESS}"))
                .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
                .body(())
                .unwrap();
            let Ok((response, mut body)) = send.send_request(request, false) else { break };
            let _ = body.send_data(start.clone(), false);
            held.push((response, body));
        }
        // Keeps the connection open and its flow control going.
        drop(reading);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_messages_are_bounded() {
    let Some(mut harness) = start(1) else { return };
    let picker = SocketAddr::new(harness.epps[0].ip, 9002);
    let body = HttpBody { body: vec![b'a'; 4_000_000].into(), end_of_stream: true };
    let mut start = [headers(10), framed(Request::RequestBody(body))].concat();
    start.truncate(3_900_000);
    let held = flood(picker, 8, 40, &start.into()).await;
    harness.limited_picker().unwrap().settle().await;
    survived("320 messages of 4 MB that do not end", harness.limited_picker());
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_no_gateway_reads_are_bounded() {
    let Some(mut harness) = start(1) else { return };
    let picker = SocketAddr::new(harness.epps[0].ip, 9002);
    let body = |end_of_stream| {
        framed(Request::RequestBody(HttpBody { body: vec![b'a'; 200_000].into(), end_of_stream }))
    };
    let start = [headers(50_000), body(false), body(false), body(true)].concat();
    let held = flood(picker, 16, 200, &start.into()).await;
    harness.limited_picker().unwrap().settle().await;
    survived("3,200 requests of 650 KB whose replies are not read", harness.limited_picker());
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_in_two_frames_is_checked() {
    let Some(mut harness) = start(1) else { return };
    let picker = SocketAddr::new(harness.epps[0].ip, 9002);
    let before = harness.limited_picker().unwrap().peak_bytes().unwrap();
    let (mut send, reading) = attack::http2(picker, 1 << 16).await.unwrap();
    let request = http::Request::post(format!("http://picker{PROCESS}"))
        .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
        .body(())
        .unwrap();
    let (response, mut body) = send.send_request(request, false).unwrap();
    let prefix = [&[0], &(408_u32 << 20).to_be_bytes()[..]].concat();
    body.send_data(Bytes::copy_from_slice(&prefix[..2]), false).unwrap();
    let response = response.await.unwrap();
    body.send_data(Bytes::copy_from_slice(&prefix[2..]), false).unwrap();
    for _ in 0..408 {
        if body.send_data(vec![0; 1 << 20].into(), false).is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut replies = response.into_body();
    while replies.data().await.is_some_and(|data| data.is_ok()) {}
    let trailers = replies.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], (tonic::Code::OutOfRange as i32).to_string());
    let peak = survived("a message of 408 MiB whose prefix is in two frames", harness.limited_picker());
    assert!(peak - before < 32 << 20, "{} MiB", (peak - before) >> 20);
    reading.abort();
}
