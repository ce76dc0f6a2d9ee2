use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_routing::{ClientCertificate, ListenerPort, PortTls};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::Activity;
use super::client_stream::ClientStream;
use super::deadlines::{Deadlines, Expired};
use super::drain::Drain;
use super::options::{ConnectionOptions, MAX_HEAD_BYTES};
use super::places::Place;
use super::plain_stream::PlainStream;
use super::response_body::{ClientResponse, ClientResponseBody, Http2};
use super::unsent::{Unsent, UnsentTotal};
use crate::hold::{ClientBody, HoldBudget};
use crate::runtime::{CoalescingWaker, CoarseTimer, ConnectionTimer, StreamStalls, StreamTasks};

/// Maximum headers of a request.
const MAX_HEADERS: usize = 100;
/// Maximum time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time for an idle connection to close after its client was asked to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum concurrent requests of one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;
/// HTTP/2 flow control windows. Bodies are held by the gateway anyway, so large windows cost no further memory.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Maximum response data that h2 buffers per stream, beyond one frame.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Where a request came in.
#[derive(Debug)]
pub(crate) struct Via {
    /// IP address of the client.
    pub(crate) client: HeaderValue,
    pub(crate) port: Arc<ListenerPort>,
    /// The server name (SNI) that a TLS client asked for.
    pub(crate) server_name: Option<Box<str>>,
    /// The certificate of the client, if it has a valid one.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Body of a response. An error resets the client's stream.
    type Body: ClientResponse<Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static;

    /// The TLS configuration of a port. `None` for plain HTTP.
    fn tls(&self, port: &ListenerPort) -> Option<Arc<PortTls>>;

    fn handle(
        self: Arc<Self>,
        via: &Via,
        request: Request<ClientBody>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// One accepted connection and what it needs from its worker and listener.
pub(super) struct Served<H> {
    pub(super) port: Arc<ListenerPort>,
    pub(super) handler: Arc<H>,
    pub(super) drain: Drain,
    pub(super) options: ConnectionOptions,
    pub(super) timer: Arc<CoarseTimer>,
    pub(super) tasks: TaskTracker,
    pub(super) place: Place,
    pub(super) unsent: Arc<UnsentTotal>,
    pub(super) budget: Arc<HoldBudget>,
}

/// Serves one client until it closes the connection or a timeout expires. Once a drain has begun: until its requests in
/// flight have finished, at most for the drain timeout.
pub(super) async fn serve(stream: TcpStream, mut served: Served<impl Handler>) {
    let activity = Arc::new(Activity::default());
    let Some(client) = address_of(&stream) else { return };
    let stream = ClientStream::new(stream, activity.clone(), served.options.write_timeout);
    // Read for each connection, so that new certificates and authorities apply to the next connection.
    let Some(tls) = served.handler.tls(&served.port) else {
        let via = Via { client, port: served.port.clone(), server_name: None, certificate: None };
        return serve_stream(stream, via, activity, served).await;
    };
    // Boxed, because futures and streams are stored in each future that passes them on.
    let handshake = Box::pin(TlsAcceptor::from(tls.config().clone()).accept(stream));
    let timeout = HANDSHAKE_TIMEOUT.min(served.options.head_timeout);
    let stream = match served.opening(timeout, handshake).await {
        None => return tracing::debug!("no TLS handshake"),
        Some(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Some(Ok(stream)) => Box::new(stream),
    };
    let server_name = stream.get_ref().1.server_name().map(Box::from);
    let certificate = tls.client(stream.get_ref().1.peer_certificates());
    let via = Via { client, port: served.port.clone(), server_name, certificate };
    serve_stream(stream, via, activity, served).await;
}

/// The client's IP address. `None` if the connection has ended.
fn address_of(stream: &TcpStream) -> Option<HeaderValue> {
    let ip = stream.peer_addr().ok()?.ip().to_canonical();
    HeaderValue::try_from(ip.to_string()).ok()
}

impl<H> Served<H> {
    /// `step` of opening the connection. `None` if it takes longer than `timeout`, the drain begins, or the place is
    /// needed for another connection.
    async fn opening<T>(&mut self, timeout: Duration, step: impl Future<Output = T>) -> Option<T> {
        let step = self.drain.token().run_until_cancelled(tokio::time::timeout(timeout, step));
        tokio::select! {
            step = step => step?.ok(),
            () = poll_fn(|cx| self.place.poll_evicted(cx)) => None,
        }
    }
}

async fn serve_stream<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    via: Via,
    activity: Arc<Activity>,
    mut served: Served<H>,
) {
    let options = served.options;
    let opened = PlainStream::open(stream, activity.clone());
    let opened = served.opening(options.head_timeout.min(options.idle_timeout), opened).await;
    let Some(Ok(Some((stream, is_http2)))) = opened else {
        return tracing::debug!("a client connection ended before its first request");
    };
    let Served { handler, drain, timer, tasks, place, unsent, budget, .. } = served;
    let via = Arc::new(via);
    let ended = CancellationToken::new();
    let _cancels_streams = ended.clone().drop_guard();
    let stalls = StreamStalls::new(options.write_timeout);
    let streams = StreamTasks::new(tasks, ended).with_stalls(stalls.clone());
    let builder = builder(streams, ConnectionTimer::new(timer), options.idle_timeout, is_http2);
    let waker = Arc::new(CoalescingWaker::default());
    waker.set_http1(!is_http2);
    let unsent = is_http2.then(|| Unsent::new(unsent));
    let service = service_fn(|request: Request<Incoming>| {
        let in_flight = activity.begin();
        let http2 = unsent.as_ref().map(|unsent| Http2::new(stalls.announce(), unsent.clone()));
        let is_unread = (!is_http2).then(|| activity.unread_body());
        let (handler, via) = (handler.clone(), via.clone());
        async move {
            let request = request.map(|body| ClientBody::new(body, is_unread));
            let response = handler.handle(&via, request).await;
            Ok::<_, Infallible>(response.map(|body| ClientResponseBody::new(body, in_flight, http2)))
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut drain_begins = pin!(drain.token().cancelled());
    let mut deadlines = Deadlines::new(&activity, place, budget, &options, is_http2);
    let mut is_first_poll = true;
    let poll = |cx: &mut Context<'_>| {
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(End::Finished(result));
        }
        // The first poll registers the waker. After that the flag is enough.
        if (std::mem::take(&mut is_first_poll) || drain.has_begun())
            && drain_begins.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(End::Drain);
        }
        deadlines.poll_expired(cx).map(End::Expired)
    };
    let end = if options.coalesces_wakes { waker.drive(poll).await } else { poll_fn(poll).await };
    match end {
        End::Drain | End::Expired(Expired::Idle) => connection.as_mut().graceful_shutdown(),
        End::Expired(expired) => return tracing::debug!(?expired, "closed a client connection"),
        End::Finished(result) => return log_end(result),
    }
    finish(connection, &activity, &drain, &options).await;
}

/// Waits for the end of a connection whose client was asked to open no further requests. Requests that arrived at the
/// same time are served; once a drain has begun, at most for the drain timeout.
async fn finish(
    mut connection: Pin<&mut impl Future<Output = Result<(), BoxError>>>,
    activity: &Activity,
    drain: &Drain,
    options: &ConnectionOptions,
) {
    let close_timeout = CLOSE_TIMEOUT.min(options.idle_timeout);
    while !drain.has_begun() {
        let closing = tokio::time::timeout(close_timeout, connection.as_mut());
        match drain.token().run_until_cancelled(closing).await {
            Some(Ok(result)) => return log_end(result),
            Some(Err(_)) if activity.is_idle() => return tracing::debug!("closed an idle client connection"),
            Some(Err(_)) | None => {}
        }
    }
    match tokio::time::timeout(options.drain_timeout, connection).await {
        Ok(result) => log_end(result),
        Err(_) => tracing::info!("drain timeout: closed a client connection with requests in flight"),
    }
}

/// How serving a connection ended.
enum End {
    Finished(Result<(), BoxError>),
    Drain,
    Expired(Expired),
}

type BoxError = Box<dyn Error + Send + Sync>;

fn log_end(result: Result<(), BoxError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "client connection failed");
    }
}

fn builder(
    streams: StreamTasks,
    timer: ConnectionTimer,
    idle_timeout: Duration,
    is_http2: bool,
) -> auto::Builder<StreamTasks> {
    let mut builder = auto::Builder::new(streams);
    builder
        .http1()
        .timer(timer)
        // hyper's timeout runs from the end of a request. [`Deadlines`] has the timeout of a head that has begun.
        .header_read_timeout(idle_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Duration::from_secs(30));
    if is_http2 { builder.http2_only() } else { builder.http1_only() }
}
