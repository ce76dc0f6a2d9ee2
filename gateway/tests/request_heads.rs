//! Request heads with several spellings of one meaning.

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::client::exchange;
use crate::support::harness::Harness;
use crate::support::upstream::Upstream;
use crate::support::within;

#[tokio::test]
async fn cookies_of_an_http2_request_arrive_as_one_header() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .service("web", upstream.port(), "http")
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .start()
        .await;
    let stream = TcpStream::connect(running.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://models.example/")
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3")
        .body(Full::<Bytes>::default())
        .unwrap();
    let pod = async {
        let mut pod = upstream.accept().await;
        let head = pod.read_until("\r\n\r\n").await;
        pod.respond(200, "ok").await;
        head
    };
    let (response, head) = tokio::join!(within("a response", sender.send_request(request)), pod);
    assert_eq!(response.unwrap().status(), 200);
    let cookies: Vec<&str> = head.lines().filter(|line| line.starts_with("cookie")).collect();
    assert_eq!(cookies, ["cookie: a=1; b=2; c=3"]);
    connection.abort();
}

#[tokio::test]
async fn a_host_with_a_trailing_dot_is_the_same_host() {
    let upstream = Upstream::bind().await;
    let mut harness = Harness::new()
        .service("web", upstream.port(), "http")
        .route("r", "{backendRefs: [{name: web, port: 80}]}");
    let without = std::mem::take(&mut harness.manifests);
    harness.manifests = without.replace("  rules:", "  hostnames: [models.example]\n  rules:");
    assert_ne!(harness.manifests, without);
    let running = harness.start().await;
    let request = |host: &str| format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    for host in ["models.example", "models.example.", "models.example.:8080"] {
        let exchanged = async { tokio::join!(exchange(running.address(), request(host)), pod(&upstream)) };
        let (response, seen) = exchanged.await;
        assert_eq!((response.status, seen.as_str()), (200, host));
    }
    assert_eq!(exchange(running.address(), request("models.example..")).await.status, 404);
}

/// The host of one request that is answered.
async fn pod(upstream: &Upstream) -> String {
    let request = upstream.answer_one("ok").await;
    request.header("host").unwrap().to_owned()
}
