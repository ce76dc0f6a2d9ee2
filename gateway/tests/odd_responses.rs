//! Responses of endpoints whose framing is unusual.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::client::exchange;
use crate::support::harness::{Harness, Running};
use crate::support::upstream::Upstream;
use crate::support::within;

async fn start(port: u16, protocol: &str) -> Running {
    Harness::new()
        .service("web", port, protocol)
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .start_with(|config| {
            config.workers = std::num::NonZeroUsize::new(1);
            // Connections are not closed because they are idle.
            config.upstream_idle_timeout = std::time::Duration::from_secs(1_000);
        })
        .await
}

fn request(method: &str) -> String {
    format!("{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn accepts_equal_repeated_lengths_and_no_others() {
    let web = Upstream::bind().await;
    let running = start(web.port(), "").await;
    for (lengths, status) in [
        ("content-length: 3, 3\r\n", 200),
        ("content-length: 3\r\ncontent-length: 3\r\n", 200),
        ("content-length: 3, 4\r\n", 502),
        ("content-length: 3\r\ncontent-length: 4\r\n", 502),
    ] {
        let pod = async {
            let mut pod = web.accept().await;
            pod.read_request().await;
            pod.write(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{lengths}\r\nabc")).await;
        };
        let (response, ()) = tokio::join!(exchange(running.address(), request("GET")), pod);
        assert_eq!(response.status, status, "{lengths}");
        if status == 200 {
            assert_eq!((response.text(), response.head.header("content-length")), ("abc", Some("3")));
        }
    }
}

/// Bytes that arrive after a response without a body are not the start of the next response.
#[tokio::test]
async fn a_connection_with_a_body_that_must_not_exist_is_closed() {
    let web = Upstream::bind().await;
    let running = start(web.port(), "").await;
    let injected = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\ninjected";
    let chunk = format!("{:x}\r\n{injected}\r\n0\r\n\r\n", injected.len());
    for (method, head, body) in [
        ("GET", "204 No Content\r\ntransfer-encoding: chunked", chunk.as_str()),
        ("GET", "204 No Content\r\ncontent-length: 50", injected),
        ("GET", "304 Not Modified\r\ntransfer-encoding: chunked", chunk.as_str()),
        ("GET", "304 Not Modified\r\ncontent-length: 50", injected),
        ("HEAD", "200 OK\r\ncontent-length: 50", injected),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked", chunk.as_str()),
    ] {
        let pod = async {
            let mut pod = web.accept().await;
            pod.read_head().await;
            pod.write(format!("HTTP/1.1 {head}\r\n\r\n")).await;
            // The body comes later than the gateway could see it before it reuses the connection.
            assert_eq!(pod.read_to_end().await, b"", "{method} {head}: the connection was kept");
            let _ = pod.stream.write_all(body.as_bytes()).await;
        };
        // The response is read without its body, which tests would wait for.
        let asking = async {
            let mut client = crate::support::client::connect(running.address()).await;
            client.write(request(method)).await;
            client.read_head().await.line
        };
        let (line, ()) = tokio::join!(asking, pod);
        assert_eq!(&line[9..12], &head[..3]);
        let (response, _) = tokio::join!(exchange(running.address(), request("GET")), async {
            let mut pod = web.accept().await;
            pod.read_request().await;
            pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        });
        assert_eq!(response.text(), "ok");
    }
}

/// SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113 §6.5.2).
const MAX_HEADER_LIST_SIZE: u16 = 6;

#[tokio::test]
async fn announces_a_limit_of_response_headers_to_http2_endpoints() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = start(listener.local_addr().unwrap().port(), "kubernetes.io/h2c").await;
    let asking = tokio::spawn(exchange(running.address(), request("GET")));
    let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
    let mut start = [0; 24 + 9];
    within("a preface", stream.read_exact(&mut start)).await.unwrap();
    let length = u32::from_be_bytes([0, start[24], start[25], start[26]]);
    assert_eq!(start[27], 4, "the first frame is not a SETTINGS frame");
    let mut settings = vec![0; length as usize];
    within("settings", stream.read_exact(&mut settings)).await.unwrap();
    let limit = settings
        .chunks(6)
        .find(|setting| setting[..2] == MAX_HEADER_LIST_SIZE.to_be_bytes())
        .map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()));
    assert_eq!(limit, Some(256 << 10));
    drop(stream);
    assert_eq!(within("a response", asking).await.unwrap().status, 502);
}
