//! Clients that write a whole request before they read the response.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::exchange;
use crate::support::harness::{Harness, LISTENER, QWEN, Running, gateway};
use crate::support::tls::{Certificate, connect};
use crate::support::upstream::Upstream;
use crate::support::within;

const MEGABYTE: usize = 1 << 20;

/// Writes everything, then reads to the end. Fails if the gateway resets the connection.
async fn write_then_read(running: &Running, head: &str, pieces: impl Iterator<Item = Vec<u8>>) -> String {
    let mut stream = TcpStream::connect(running.address()).await.unwrap();
    within("the exchange", async {
        stream.write_all(head.as_bytes()).await.unwrap();
        for piece in pieces {
            stream.write_all(&piece).await.unwrap();
        }
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        String::from_utf8(response).unwrap()
    })
    .await
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_writes_before_it_reads() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.hold_request_bytes = MEGABYTE as u64)
        .await;
    let pieces = || {
        let start = format!(r#"{{"x":"{}"#, "x".repeat(MEGABYTE - 6)).into_bytes();
        std::iter::once(start).chain((1..20).map(|_| vec![b'x'; MEGABYTE]))
    };
    let chunks =
        || pieces().map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat());
    let length = format!("content-length: {}", 20 * MEGABYTE);
    for (path, status) in [("/v1/chat/completions", "413"), ("/v1/..%2fx", "400")] {
        for framing in [length.as_str(), "transfer-encoding: chunked"] {
            let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n");
            let response = match framing {
                "transfer-encoding: chunked" => write_then_read(&running, &head, chunks()).await,
                _ => write_then_read(&running, &head, pieces()).await,
            };
            assert_eq!(&response[9..12], status, "{framing}: {response}");
        }
    }
    running.until_metric("forebay_gateway_client_connections", 0.0).await;
}

#[tokio::test]
async fn an_early_refusal_reaches_a_tls_client_that_writes_before_it_reads() {
    const HOST: &str = "models.example";
    let certificate = Certificate::of(HOST);
    let listener = gateway(&[("https", LISTENER)])
        .replace("protocol: HTTP,", "protocol: HTTPS, tls: {certificateRefs: [{name: certificate}]},");
    let running = Harness { manifests: listener }.with(&certificate.secret("certificate")).start().await;
    let mut stream = connect(running.address(), HOST, &certificate, &["http/1.1"]).await.unwrap();
    let response = within("the exchange", async {
        let length = 20 * MEGABYTE;
        let head = format!("POST /x HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..20 {
            stream.write_all(&[b'x'; MEGABYTE]).await.unwrap();
        }
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    })
    .await;
    assert!(response.starts_with("HTTP/1.1 404"), "{response}");
}

/// The limit is for bodies that are held. The model is at the start, so this body is not.
#[tokio::test]
async fn a_body_is_accepted_or_refused_whatever_its_framing() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .service("web", upstream.port(), "")
        .start_with(|config| config.hold_request_bytes = 100_000)
        .await;
    let before = format!(r#"{{"model":"{QWEN}","x":"{}"}}"#, "x".repeat(200_000));
    let after = format!(r#"{{"x":"{}","model":"{QWEN}"}}"#, "x".repeat(200_000));
    for (body, status) in [(before, 200), (after, 413)] {
        let length = body.len();
        let with_length = format!(
            "POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let chunked = format!(
            "POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        );
        for request in [with_length, chunked] {
            let pod = async {
                let mut pod = upstream.accept().await;
                pod.read_request().await;
                pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
                std::future::pending::<()>().await;
            };
            let response = tokio::select! {
                response = exchange(running.address(), request) => response,
                () = pod => unreachable!(),
            };
            assert_eq!(response.status, status);
        }
    }
}
