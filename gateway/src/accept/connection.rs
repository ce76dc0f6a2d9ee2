use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use forebay_routing::ListenerPort;
use http::{Request, Response};
use http_body::Body;
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

use super::drain::Drain;
use crate::runtime::{CoalescingWaker, CoarseTimer, ConnectionTimer, StreamTasks};

/// Maximum headers of a request.
const MAX_HEADERS: usize = 100;
/// Maximum size of a request head, and of one read of a request body.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Maximum time from the first to the last byte of a head, and from one request to the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum concurrent requests of one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;
/// HTTP/2 flow control windows. Bodies are held by the gateway anyway, so large windows cost no further memory.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Where a request came in.
#[derive(Debug)]
pub(crate) struct Via {
    pub(crate) port: Arc<ListenerPort>,
    /// The server name (SNI) that a TLS client asked for.
    pub(crate) server_name: Option<Box<str>>,
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Body of a response. An error resets the client's stream.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// The TLS configuration of a port. `None` for plain HTTP.
    fn tls(&self, port: &ListenerPort) -> Option<Arc<ServerConfig>>;

    fn handle(
        self: Arc<Self>,
        via: &Via,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Options of all client connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionOptions {
    /// Maximum time that requests in flight may take once a drain has begun.
    pub(crate) drain_timeout: Duration,
    /// Use a [`CoalescingWaker`]. Off only to measure its effect.
    pub(crate) coalesces_wakes: bool,
}

/// One accepted connection and what it needs from its worker and listener.
pub(super) struct Served<H> {
    pub(super) port: Arc<ListenerPort>,
    pub(super) handler: Arc<H>,
    pub(super) drain: Drain,
    pub(super) options: ConnectionOptions,
    pub(super) timer: Arc<CoarseTimer>,
    pub(super) tasks: TaskTracker,
}

/// Serves one client until it closes the connection. Once a drain has begun: until its requests in flight have
/// finished, at most for the drain timeout.
pub(super) async fn serve(stream: TcpStream, served: Served<impl Handler>) {
    // Read for each connection, so that a new certificate applies to the next connection.
    let Some(config) = served.handler.tls(&served.port) else {
        let via = Via { port: served.port.clone(), server_name: None };
        return serve_stream(stream, via, served).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream));
    let stream = match served.drain.token().run_until_cancelled(handshake).await {
        None => return,
        Some(Err(_)) => return tracing::debug!("TLS handshake timed out"),
        Some(Ok(Err(error))) => return tracing::debug!(%error, "TLS handshake failed"),
        Some(Ok(Ok(stream))) => stream,
    };
    let server_name = stream.get_ref().1.server_name().map(Box::from);
    let via = Via { port: served.port.clone(), server_name };
    serve_stream(stream, via, served).await;
}

async fn serve_stream<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    via: Via,
    served: Served<H>,
) {
    let Served { handler, drain, options, timer, tasks, .. } = served;
    let via = Arc::new(via);
    let ended = CancellationToken::new();
    let _cancels_streams = ended.clone().drop_guard();
    let builder = builder(StreamTasks::new(tasks, ended), ConnectionTimer::new(timer));
    let waker = Arc::new(CoalescingWaker::default());
    let service = service_fn(|request: Request<Incoming>| {
        if request.version() < http::Version::HTTP_2 {
            waker.set_http1();
        }
        let (handler, via) = (handler.clone(), via.clone());
        async move { Ok::<_, Infallible>(handler.handle(&via, request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut drain_begins = pin!(drain.token().cancelled());
    let mut is_first_poll = true;
    // Ready with `None` when the drain begins.
    let poll = |cx: &mut Context<'_>| {
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        // The first poll registers the waker. After that the flag is enough.
        if (std::mem::take(&mut is_first_poll) || drain.has_begun())
            && drain_begins.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        Poll::Pending
    };
    let result = if options.coalesces_wakes { waker.drive(poll).await } else { poll_fn(poll).await };
    let result = match result {
        Some(result) => Ok(result),
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(options.drain_timeout, connection).await
        }
    };
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "client connection failed"),
        Err(_) => tracing::info!("drain timeout: closed a client connection with requests in flight"),
    }
}

fn builder(streams: StreamTasks, timer: ConnectionTimer) -> auto::Builder<StreamTasks> {
    let mut builder = auto::Builder::new(streams);
    builder
        .http1()
        .timer(timer)
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
    builder
}
