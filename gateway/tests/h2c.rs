//! Connections to backends over HTTP/2, which requests share.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::support::client::{connect, exchange, get};
use crate::support::stage::{Running, Stage};
use crate::support::upstream::Connection;
use crate::support::within;

/// `/stream` is answered by the begin of a stream, whose end comes when it is told to; all else at once.
struct Pod {
    port: u16,
    end_streams: Arc<Notify>,
    /// Over all time.
    connections: Arc<AtomicUsize>,
    /// One for each connection that has ended.
    ended: mpsc::Receiver<()>,
    accepting: JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Pod {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (end_streams, connections) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (ends, ended) = mpsc::channel(8);
        let (end, count) = (end_streams.clone(), connections.clone());
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let (end, ends) = (end.clone(), ends.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(request, end.clone()));
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                    let _ = ends.send(()).await;
                });
            }
        });
        Self { port, end_streams, connections, ended, accepting }
    }
}

async fn answer(
    request: Request<Incoming>,
    end: Arc<Notify>,
) -> hyper::Result<Response<BoxBody<Bytes, Infallible>>> {
    let is_stream = request.uri().path() == "/stream";
    request.into_body().collect().await?;
    if !is_stream {
        return Ok(Response::new(BodyExt::boxed(Full::new(Bytes::from_static(b"ok")))));
    }
    let piece = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    let last = async move { end.notified().await }.map(move |()| piece("last"));
    let pieces = stream::once(ready(piece("first"))).chain(stream::once(last));
    Ok(Response::new(BodyExt::boxed(StreamBody::new(pieces))))
}

/// A client that has the begin of a stream.
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
async fn a_stream_lives_longer_than_an_idle_connection() {
    let (web, mut other) = (Pod::start().await, Pod::start().await);
    let to_other = "{matches: [{path: {value: /other}}], backendRefs: [{name: other, port: 80}]}, {backendRefs: [{name: web, port: 80}]}";
    let running = Stage::new()
        .service("web", web.port, "kubernetes.io/h2c")
        .service("other", other.port, "kubernetes.io/h2c")
        .route("r", to_other)
        .start_with(|config| config.upstream_idle_timeout = Duration::from_millis(20))
        .await;
    let client = streaming(&running).await;
    assert_eq!(get(running.address(), "/other").await.text(), "ok");
    within("a connection that was used later to be idle too long", other.ended.recv()).await;
    ends_whole(&web, client).await;
}

#[tokio::test]
async fn a_stream_outlives_the_place_of_its_connection() {
    let web = Pod::start().await;
    let running = Stage::new()
        .service("web", web.port, "kubernetes.io/h2c")
        .route("r", "{backendRefs: [{name: web, port: 80}]}")
        .start_with(|config| config.replay_bytes = 10)
        .await;
    let client = streaming(&running).await;
    // What cannot be sent twice goes over a connection of its own, which later requests take.
    let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{}", "x".repeat(100));
    assert_eq!(exchange(running.address(), request).await.text(), "ok");
    assert_eq!(web.connections.load(Ordering::Relaxed), 2);
    ends_whole(&web, client).await;
}
