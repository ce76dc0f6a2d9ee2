//! Clients that send nothing, too slowly, or take no data.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{connect, read_response};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker, Seen};
use crate::support::upstream::{Connection, Upstream};
use crate::support::{until, within};
use forebay_gateway::Config;

const SHORT: Duration = Duration::from_millis(200);
/// Longer than a test.
const LONG: Duration = Duration::from_secs(1_000);
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: models.example\r\n\r\n";

async fn web(upstream: &Upstream, configure: impl FnOnce(&mut Config)) -> Running {
    Harness::new()
        .service("web", upstream.port(), "")
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .start_with(configure)
        .await
}

#[tokio::test]
async fn connections_without_a_request_are_closed() {
    let upstream = Upstream::bind().await;
    let running = web(&upstream, |config| {
        (config.client_head_timeout, config.client_idle_timeout) = (SHORT, LONG);
    })
    .await;
    for start in ["", "G", &GET[..30], &PREFACE[..1], &PREFACE[..15], PREFACE] {
        let mut client = connect(running.address()).await;
        client.write(start).await;
        let rest = client.read_to_end().await;
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{start:?}: {rest:?}");
    }
    running.until_metric("forebay_gateway_client_connections", 0.0).await;
}

/// The second head has the head timeout, the time before it the idle timeout.
#[tokio::test]
async fn a_kept_connection_is_idle_for_longer_than_a_head_may_take() {
    let upstream = Upstream::bind().await;
    let running = web(&upstream, |config| {
        (config.client_head_timeout, config.client_idle_timeout) = (SHORT, LONG);
    })
    .await;
    let serving = async {
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pod.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\none").await;
        upstream.answer_one("two").await;
    };
    let asking = async {
        let mut client = connect(running.address()).await;
        client.write("GET / HTTP/1.1\r\nhost: models.example\r\nx: 1\r\n\r\n").await;
        assert_eq!(read_response(&mut client).await.text(), "one");
        // The head timeout of another connection passes several times.
        for _ in 0..3 {
            assert_eq!(connect(running.address()).await.read_to_end().await, b"");
        }
        client.write(GET).await;
        assert_eq!(read_response(&mut client).await.text(), "two");
        client.write(&GET[..20]).await;
        assert_eq!(client.read_to_end().await, b"", "the second head has no timeout");
    };
    tokio::join!(serving, asking);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let upstream = Upstream::bind().await;
    let running = web(&upstream, |config| config.client_idle_timeout = SHORT).await;
    let mut client = connect(running.address()).await;
    client.write(GET).await;
    upstream.answer_one("ok").await;
    assert_eq!(read_response(&mut client).await.text(), "ok");
    assert_eq!(client.read_to_end().await, b"");

    let (mut sender, connection) = http2(&running).await;
    let connection = tokio::spawn(connection);
    let request = Request::get("http://models.example/").body(Empty::<Bytes>::new()).unwrap();
    let (response, _) = tokio::join!(sender.send_request(request), upstream.answer_one("ok"));
    assert_eq!(response.unwrap().status(), 200);
    within("the connection to end", connection).await.unwrap().unwrap();
    running.until_metric("forebay_gateway_client_connections", 0.0).await;
}

type Http2 = (
    hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
    hyper::client::conn::http2::Connection<TokioIo<TcpStream>, Empty<Bytes>, TokioExecutor>,
);

async fn http2(running: &Running) -> Http2 {
    let stream = TcpStream::connect(running.address()).await.unwrap();
    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap()
}

/// A request that runs for longer than the idle timeout is not idle.
#[tokio::test]
async fn a_connection_with_a_request_in_flight_is_not_idle() {
    let upstream = Upstream::bind().await;
    let running = web(&upstream, |config| config.client_idle_timeout = SHORT).await;
    let mut http1 = connect(running.address()).await;
    http1.write(GET).await;
    let mut pod1 = upstream.accept().await;
    pod1.read_request().await;
    let (mut sender, connection) = http2(&running).await;
    let connection = tokio::spawn(connection);
    let request = Request::get("http://models.example/").body(Empty::<Bytes>::new()).unwrap();
    let request = tokio::spawn(sender.send_request(request));
    let mut pod2 = upstream.accept().await;
    pod2.read_request().await;
    for _ in 0..3 {
        assert_eq!(connect(running.address()).await.read_to_end().await, b"");
    }
    pod1.respond(200, "one").await;
    assert_eq!(read_response(&mut http1).await.text(), "one");
    pod2.respond(200, "two").await;
    assert_eq!(within("a response", request).await.unwrap().unwrap().status(), 200);
    connection.abort();
}

/// The next HTTP/2 frame: its type, its flags and its payload (RFC 9113 §4.1).
async fn frame(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    within("a frame", stream.read_exact(&mut head)).await.unwrap();
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    within("a payload", stream.read_exact(&mut payload)).await.unwrap();
    (head[3], head[4], payload)
}

/// The client has not seen the GOAWAY when it sends a request. The request takes longer than an idle connection may.
#[tokio::test]
async fn a_request_that_crosses_the_end_of_an_idle_connection_is_served() {
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    let upstream = Upstream::bind().await;
    let running = web(&upstream, |config| config.client_idle_timeout = SHORT).await;
    let mut client = TcpStream::connect(running.address()).await.unwrap();
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    client.write_all(&[PREFACE.as_bytes(), &empty_settings].concat()).await.unwrap();
    while frame(&mut client).await.0 != GOAWAY {}
    // GET, http, /, and the authority `a` (RFC 7541 appendix A).
    let fields = [0x82, 0x86, 0x84, 0x41, 1, b'a'];
    let head = [0, 0, fields.len() as u8, HEADERS, 5, 0, 0, 0, 1];
    client.write_all(&[&head[..], &fields].concat()).await.unwrap();
    let mut pod = upstream.accept().await;
    pod.read_request().await;
    for _ in 0..3 {
        assert_eq!(connect(running.address()).await.read_to_end().await, b"");
    }
    pod.respond(200, "").await;
    let (_, flags, fields) = loop {
        let frame = frame(&mut client).await;
        if frame.0 == HEADERS {
            break frame;
        }
    };
    // The status 200 (RFC 7541 appendix A).
    assert_eq!((flags & END_STREAM, fields[0]), (END_STREAM, 0x88));
    // Then the connection ends.
    Connection::of(client).read_to_end().await;
}

/// Writes a body without an end until the gateway closes the connection.
async fn write_until_closed(pod: &mut Connection) {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    pod.write(head).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    within("the gateway to close the connection", async {
        while pod.stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
}

const STALLED: &str = r#"forebay_gateway_errors_total{code="client_write_timeout"}"#;

#[tokio::test]
async fn an_http1_client_that_takes_nothing_is_closed_and_the_picker_knows() {
    let upstream = Upstream::bind().await;
    let mut picker = Picker::start(Fixed::at(upstream.address())).await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(|config| {
            config.client_write_timeout = SHORT;
            config.epp_response_body = forebay_gateway::ResponseBodies::Never;
        })
        .await;
    let body = format!(r#"{{"model":"{QWEN}"}}"#);
    let (client, mut pod) = running.forwarded(&body, &upstream).await;
    write_until_closed(&mut pod).await;
    running.until_metric(STALLED, 1.0).await;
    picker.until("the stream to end", |seen| matches!(seen, Seen::Reset | Seen::Ended)).await;
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
    let requests =
        format!(r#"forebay_gateway_requests_total{{model="{QWEN}",pool="llm-d/qwen",code="499"}}"#);
    running.until_metric(&requests, 1.0).await;
    drop(client);
}

/// A client connection with HTTP/2 and this initial window, and its driver.
async fn with_window(
    running: &Running,
    bytes: u32,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let stream = TcpStream::connect(running.address()).await.unwrap();
    let (sender, connection) =
        h2::client::Builder::new().initial_window_size(bytes).handshake(stream).await.unwrap();
    let driver = tokio::spawn(async move { drop(connection.await) });
    (sender, driver)
}

async fn ask(sender: &h2::client::SendRequest<Bytes>, path: &str) -> h2::client::ResponseFuture {
    let mut sender = within("a free stream", sender.clone().ready()).await.unwrap();
    let request = Request::get(format!("http://models.example{path}")).body(()).unwrap();
    sender.send_request(request, true).unwrap().0
}

/// Streams without window, with complete and endless responses. Other streams of the connection go on.
#[tokio::test]
async fn http2_streams_without_window_are_reset_and_their_endpoints_freed() {
    const STREAMS: usize = 20;
    let upstream = Upstream::bind().await;
    for window in [0, 1] {
        let running = web(&upstream, |config| config.client_write_timeout = SHORT).await;
        let (sender, driver) = with_window(&running, window).await;
        let complete = "x".repeat(30_000);
        let mut responses = Vec::new();
        for _ in 0..STREAMS {
            let response = ask(&sender, "/").await;
            let mut pod = upstream.accept().await;
            pod.read_request().await;
            pod.write(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 30000\r\nconnection: close\r\n\r\n{complete}"
            ))
            .await;
            responses.push(within("a response head", response).await.unwrap());
        }
        let endless = ask(&sender, "/").await;
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        write_until_closed(&mut pod).await;
        responses.push(within("a response head", endless).await.unwrap());
        for response in responses {
            let mut body = response.into_body();
            let error = within("the stream to end", async {
                loop {
                    match body.data().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return error,
                        None => panic!("the response looks complete"),
                    }
                }
            })
            .await;
            assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "window {window}: {error}");
        }
        running.until_metric("forebay_gateway_client_unsent_bytes", 0.0).await;
        running.until_metric("forebay_gateway_active_requests", 0.0).await;
        running.until_metric(STALLED, 1.0).await;
        assert_eq!(running.metric("forebay_gateway_client_connections").await, 1.0);
        drop(sender);
        driver.abort();
    }
}

/// More data than a connection may have unsent is not read from the endpoints.
#[tokio::test]
async fn the_unsent_data_of_a_connection_is_bounded() {
    const STREAMS: usize = 300;
    const BODY_BYTES: usize = 60_000;
    let upstream = Upstream::bind().await;
    let running = web(&upstream, |config| config.client_write_timeout = LONG).await;
    let (sender, driver) = with_window(&running, 0).await;
    let mut responses = Vec::new();
    let body = "x".repeat(BODY_BYTES);
    for _ in 0..STREAMS {
        let response = ask(&sender, "/").await;
        let mut pod = upstream.accept().await;
        pod.read_request().await;
        pod.write(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {BODY_BYTES}\r\nconnection: close\r\n\r\n{body}"
        ))
        .await;
        responses.push(within("a response head", response).await.unwrap());
    }
    let limit = f64::from(4 << 20);
    let unsent = until("the limit to be reached", || async {
        let unsent = running.metric("forebay_gateway_client_unsent_bytes").await;
        (unsent >= limit).then_some(unsent)
    })
    .await;
    assert!(unsent < limit + f64::from(64 << 10), "{unsent}");
    drop(responses);
    running.until_metric("forebay_gateway_client_unsent_bytes", 0.0).await;
    running.until_metric("forebay_gateway_active_requests", 0.0).await;
    driver.abort();
}

/// A slow client that keeps reading gets everything.
#[tokio::test]
async fn a_large_response_over_a_small_window_arrives_completely() {
    let upstream = Upstream::bind().await;
    let running = web(&upstream, |_| {}).await;
    let (sender, driver) = with_window(&running, 1_000).await;
    let response = ask(&sender, "/").await;
    let body: String = (0..300_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    let mut pod = upstream.accept().await;
    pod.read_request().await;
    pod.respond(200, &body).await;
    let mut received = Vec::new();
    let mut arriving = within("a response head", response).await.unwrap().into_body();
    while let Some(data) = within("data", arriving.data()).await {
        let data = data.unwrap();
        received.extend_from_slice(&data);
        arriving.flow_control().release_capacity(data.len()).unwrap();
    }
    assert!(received == body.as_bytes(), "{} bytes arrived", received.len());
    driver.abort();
}
