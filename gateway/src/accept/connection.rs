use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::beat::{Beat, BeatTimer, Place};
use super::drain::Drain;
use super::wakes::Wakes;
use crate::answer::AnswerBody;
use forebay_routing::ListenerPort;

/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// Largest head of a request, and largest piece of its body read at once.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// From the first byte of a head to its last, and from one request to the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// From a connection's first byte to the end of its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at one time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;
/// An HTTP/2 body is held anyway: windows that let it come without stops.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// How a request came in.
#[derive(Debug)]
pub(crate) struct Via {
    pub(crate) port: Arc<ListenerPort>,
    /// The name that a TLS client asked for.
    pub(crate) server_name: Option<Box<str>>,
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// What clients of that port are met with, if it speaks TLS.
    fn tls(&self, port: &ListenerPort) -> Option<Arc<ServerConfig>>;

    fn handle(
        self: Arc<Self>,
        via: &Via,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<AnswerBody>> + Send;
}

/// How connections end that their clients do not.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) drain: Drain,
    /// Running requests may take so long after it has begun.
    pub(super) timeout: Duration,
}

/// Serves one client until it leaves; after the drain has begun, until its running requests have ended or its time is
/// over.
pub(super) async fn serve(
    stream: TcpStream,
    port: Arc<ListenerPort>,
    handler: Arc<impl Handler>,
    ending: Ending,
    beat: Arc<Beat>,
    tasks: TaskTracker,
) {
    // Asked for each connection, so that a new certificate is there for the next one.
    let Some(config) = handler.tls(&port) else {
        let via = Via { port, server_name: None };
        return serve_stream(stream, via, handler, ending, beat, tasks).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream));
    let stream = match ending.drain.token().run_until_cancelled(handshake).await {
        None => return,
        Some(Err(_)) => return tracing::debug!("a client did not finish its TLS handshake"),
        Some(Ok(Err(error))) => return tracing::debug!(%error, "a TLS handshake failed"),
        Some(Ok(Ok(stream))) => stream,
    };
    let server_name = stream.get_ref().1.server_name().map(Box::from);
    serve_stream(stream, Via { port, server_name }, handler, ending, beat, tasks).await;
}

async fn serve_stream(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    via: Via,
    handler: Arc<impl Handler>,
    ending: Ending,
    beat: Arc<Beat>,
    tasks: TaskTracker,
) {
    let via = Arc::new(via);
    let gone = CancellationToken::new();
    let _ends_streams = gone.clone().drop_guard();
    let mut builder = auto::Builder::new(StreamTasks::new(tasks, gone));
    builder
        .http1()
        .timer(BeatTimer(beat.clone()))
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Duration::from_secs(30));
    let wakes = Arc::new(Wakes::default());
    let service = service_fn(|request: Request<Incoming>| {
        if request.version() < http::Version::HTTP_2 {
            wakes.are_http1();
        }
        let (handler, via) = (handler.clone(), via.clone());
        async move { Ok::<_, Infallible>(handler.handle(&via, request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let drain = &ending.drain;
    let mut begins = pin!(drain.token().cancelled());
    let mut place = None;
    let ended = wakes.drive(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // The first time, it is told whom to wake; then only a flag is looked at.
        let is_first = place.is_none();
        place.get_or_insert_with(|| Place::take(beat.clone(), cx.waker().clone()));
        if (is_first || drain.has_begun()) && begins.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    });
    let ended = match ended.await {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(ending.timeout, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client's connection ended early"),
        Err(_) => tracing::info!("a connection was closed with a request running: the drain timeout is over"),
    }
}

/// Runs the streams of an HTTP/2 connection; they end with it.
#[derive(Clone, Debug)]
pub(crate) struct StreamTasks {
    tasks: TaskTracker,
    gone: CancellationToken,
}

impl StreamTasks {
    pub(crate) fn new(tasks: TaskTracker, gone: CancellationToken) -> Self {
        Self { tasks, gone }
    }
}

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let gone = self.gone.clone();
        self.tasks.spawn(async move { gone.run_until_cancelled_owned(stream).await });
    }
}
