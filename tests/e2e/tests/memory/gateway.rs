//! Attacks on the gateway by clients, by pods and by pickers of other teams.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use bytes::Bytes;
use forebay_e2e::TIMEOUT;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    POOL,
    attack::{self, BODY, OPEN_BODY, Reply, SOON, chat_head},
    start, survived,
};

/// Opens connections in parallel, sends the same to each, and returns them with their replies.
async fn all_send(
    address: SocketAddr,
    connections: usize,
    data: Bytes,
    within: Duration,
) -> Vec<(TcpStream, Reply)> {
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let data = data.clone();
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            attack::write(&mut stream, &data).await;
            let reply = attack::reply(&mut stream, within).await;
            (stream, reply)
        });
    }
    tasks.join_all().await
}

fn refused(replies: &[(TcpStream, Reply)]) -> usize {
    replies.iter().filter(|(_, reply)| matches!(reply, Reply::Status(503 | 413 | 400))).count()
}

async fn serves_a_small_request(address: SocketAddr) {
    let mut client = forebay_e2e::load::Client::new(address);
    let body = r#"{"model": "Qwen/Qwen3-0.6B", "messages": [], "max_tokens": 1}"#;
    let response = client.post_json("/v1/chat/completions", body).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.body);
}

/// `data` as the start of one chunk of a body that does not end.
fn open_chunked(address: SocketAddr, more: &str, data: &[u8]) -> Bytes {
    let mut request = chat_head(address, &format!("Transfer-Encoding: chunked\r\n{more}")).into_bytes();
    request.extend(format!("{:x}\r\n", data.len()).bytes());
    request.extend(data);
    request.extend(b"\r\n");
    request.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_held_up_to_the_budget() {
    let Some(mut harness) = start(1) else { return };
    let address = harness.network.gateway();
    let mut body = OPEN_BODY.as_bytes().to_vec();
    body.resize(100 << 20, b'a');
    let replies = all_send(address, 16, open_chunked(address, "", &body), SOON).await;
    assert!(refused(&replies) > 0, "the hold budget is reached: {replies:?}");
    serves_a_small_request(address).await;
    drop(replies);
    survived("16 bodies of 100 MiB without a model", harness.limited_gateway());
}

#[tokio::test(flavor = "multi_thread")]
async fn decoders_count_against_the_budget() {
    let Some(mut harness) = start(1) else { return };
    let address = harness.network.gateway();
    let mut body = OPEN_BODY.as_bytes().to_vec();
    body.resize(8 << 20, b'a');
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(23).unwrap();
    // Incompressible in part: more than 200 times the compressed size is refused.
    let mut state = 1_u64;
    for part in body.chunks(64 << 10) {
        encoder.write_all(part).unwrap();
        let noise: Vec<u8> = (0..2048)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                b'a' + (state >> 33) as u8 % 26
            })
            .collect();
        encoder.write_all(&noise).unwrap();
    }
    encoder.flush().unwrap();
    let compressed = encoder.get_ref().clone();
    let data = open_chunked(address, "Content-Encoding: zstd\r\n", &compressed);
    let replies = all_send(address, 300, data, SOON).await;
    let held = replies.iter().filter(|(_, reply)| *reply == Reply::Silent).count();
    assert!(refused(&replies) > 0, "the hold budget is reached");
    assert!(held > 0, "bodies are held until then: {replies:?}");
    serves_a_small_request(address).await;
    drop(replies);
    survived(&format!("300 zstd bodies of {} KiB", compressed.len() >> 10), harness.limited_gateway());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_frames_cost_what_they_hold() {
    let Some(mut harness) = start(1) else { return };
    let address = harness.network.gateway();
    let (connections, body_bytes) = (48, 1 << 20);
    let mut data = chat_head(address, "Transfer-Encoding: chunked\r\n").into_bytes();
    for byte in OPEN_BODY.bytes().chain(std::iter::repeat_n(b'a', body_bytes)) {
        data.extend([b'1', b'\r', b'\n', byte, b'\r', b'\n']);
    }
    let before = harness.limited_gateway().unwrap().peak_bytes().unwrap();
    let replies = all_send(address, connections, data.into(), SOON).await;
    harness.limited_gateway().unwrap().settle().await;
    assert_eq!(refused(&replies), 0, "the bodies are held");
    let peak = survived("48 bodies of 1 MiB in chunks of one byte", harness.limited_gateway());
    let held = (connections * body_bytes) as u64;
    assert!(peak - before < 3 * held, "{} MiB for {} MiB of bodies", (peak - before) >> 20, held >> 20);
}

/// A pod that answers each request with a response that does not end.
async fn endless_pod(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            let event = format!("data: {}\n\n", "x".repeat(16 << 10));
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_no_http1_client_reads_are_not_collected() {
    let Some(mut harness) = start(0) else { return };
    let pod = tokio::spawn(endless_pod(harness.announce_pod(POOL, 200).unwrap()));
    let address = harness.network.gateway();
    let request = chat_head(address, &format!("Content-Length: {}\r\n", BODY.len())) + BODY;
    attack::until_served(address).await;
    let replies = all_send(address, 500, request.into(), TIMEOUT).await;
    let answered = replies.iter().filter(|(_, reply)| *reply == Reply::Status(200)).count();
    // A busy machine may not accept all connections of the pod in time.
    assert!(answered >= 250, "{answered} of 500 answered");
    harness.limited_gateway().unwrap().settle().await;
    survived("500 HTTP/1 clients that do not read", harness.limited_gateway());
    pod.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_no_http2_client_reads_are_bounded() {
    let Some(mut harness) = start(0) else { return };
    let pod = tokio::spawn(endless_pod(harness.announce_pod(POOL, 200).unwrap()));
    let address = harness.network.gateway();
    attack::until_served(address).await;
    let mut connections = Vec::new();
    for _ in 0..160 {
        // Huge windows of which nothing is taken: the tasks that read are stopped at once.
        let Some((mut send, reading)) = attack::http2(address, (1 << 31) - 1).await else { break };
        let mut responses = Vec::new();
        for _ in 0..40 {
            let request = http::Request::post(format!("http://{address}/v1/chat/completions"))
                .header("content-type", "application/json")
                .body(())
                .unwrap();
            let Ok((response, mut body)) = send.send_request(request, false) else { break };
            let _ = body.send_data(Bytes::from_static(BODY.as_bytes()), true);
            responses.push(response);
        }
        connections.push((send, responses, reading));
    }
    let deadline = tokio::time::Instant::now() + TIMEOUT / 2;
    // The responses arrive at connections that are not read from here on.
    for (_, responses, reading) in &mut connections {
        let first = &mut responses[0];
        let _ = tokio::time::timeout_at(deadline, first).await;
        reading.abort();
    }
    harness.limited_gateway().unwrap().settle().await;
    survived("160 HTTP/2 clients with 40 streams each that do not read", harness.limited_gateway());
    pod.abort();
}

/// A picker of another team: each reply claims to be a message of `claimed` bytes, with its prefix in two DATA frames.
async fn lying_picker(address: SocketAddr, claimed: u32) {
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let response =
                    http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let Ok(mut body) = respond.send_response(response, false) else { continue };
                let prefix = [&[0], &claimed.to_be_bytes()[..]].concat();
                let _ = body.send_data(Bytes::copy_from_slice(&prefix[..3]), false);
                let _ = body.send_data(Bytes::copy_from_slice(&prefix[3..]), false);
                tokio::spawn(async move {
                    // Held, so that the stream is not reset.
                    let _request = request;
                    let data = Bytes::from(vec![0; 1 << 20]);
                    for _ in 0..claimed >> 20 {
                        body.reserve_capacity(data.len());
                        while body.capacity() < data.len() {
                            match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                                Some(Ok(_)) => {}
                                _ => return,
                            }
                        }
                        let _ = body.send_data(data.clone(), false);
                    }
                });
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_pickers_are_bounded() {
    let Some(mut harness) = start(1) else { return };
    let address = harness.network.gateway();
    let picker = SocketAddr::new(harness.epps[0].ip, 9002);
    harness.epps[0].process.kill();
    for claimed in [400 << 20, 16 << 20] {
        let lying = tokio::spawn(lying_picker(picker, claimed));
        let request = chat_head(address, &format!("Content-Length: {}\r\n", BODY.len())) + BODY;
        let replies = all_send(address, 100, request.into(), TIMEOUT).await;
        assert_eq!(replies.len(), 100);
        lying.abort();
        let _ = lying.await;
        harness.limited_gateway().unwrap().settle().await;
        let attack = format!("100 replies of a picker that claim {} MiB", claimed >> 20);
        survived(&attack, harness.limited_gateway());
    }
}
