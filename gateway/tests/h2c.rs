//! Shared HTTP/2 connections to backends.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response};
use tokio::sync::Notify;

use crate::support::client::{connect, exchange, get};
use crate::support::h2::{self, Answer, H2Backend};
use crate::support::harness::{Harness, Running};
use crate::support::upstream::Connection;

/// Responds to `/stream` with a stream that ends when the test says so, and to other paths at once.
struct Pod {
    backend: H2Backend,
    end_streams: Arc<Notify>,
}

impl Pod {
    async fn start() -> Self {
        let end_streams = Arc::new(Notify::new());
        let end = end_streams.clone();
        let backend = H2Backend::start(move |request| answer(request, end.clone())).await;
        Self { backend, end_streams }
    }
}

async fn answer(request: Request<Incoming>, end: Arc<Notify>) -> Answer {
    let is_stream = request.uri().path() == "/stream";
    request.into_body().collect().await?;
    if !is_stream {
        return Ok(h2::text("ok"));
    }
    let piece = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    let last = async move { end.notified().await }.map(move |()| piece("last"));
    let pieces = stream::once(ready(piece("first"))).chain(stream::once(last));
    Ok(Response::new(BodyExt::boxed(StreamBody::new(pieces))))
}

/// A client that has received the start of a stream.
async fn streaming(running: &Running) -> Connection {
    let mut client = connect(running.address()).await;
    client.write("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.read_until("first").await;
    client
}

async fn ends_whole(pod: &Pod, mut client: Connection) {
    pod.end_streams.notify_one();
    client.read_until("last\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_stream_keeps_its_connection_open_after_the_idle_timeout() {
    let (web, mut other) = (Pod::start().await, Pod::start().await);
    let to_other = "{matches: [{path: {value: /other}}], backendRefs: [{name: other, port: 80}]}, {backendRefs: [{name: web, port: 80}]}";
    let running = Harness::new()
        .service("web", web.backend.port, "kubernetes.io/h2c")
        .service("other", other.backend.port, "kubernetes.io/h2c")
        .route("r", to_other)
        .start_with(|config| config.upstream_idle_timeout = Duration::from_millis(20))
        .await;
    let client = streaming(&running).await;
    assert_eq!(get(running.address(), "/other").await.text(), "ok");
    // It was used later than the connection of the stream.
    other.backend.a_connection_ends().await;
    ends_whole(&web, client).await;
}

#[tokio::test]
async fn a_stream_survives_when_its_connection_is_replaced() {
    let web = Pod::start().await;
    let running = Harness::new()
        .service("web", web.backend.port, "kubernetes.io/h2c")
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .start_with(|config| config.replay_bytes = 10)
        .await;
    let client = streaming(&running).await;
    // A request that cannot be sent again uses a new connection, which later requests share.
    let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{}", "x".repeat(100));
    assert_eq!(exchange(running.address(), request).await.text(), "ok");
    assert_eq!(web.backend.connections(), 2);
    ends_whole(&web, client).await;
}
