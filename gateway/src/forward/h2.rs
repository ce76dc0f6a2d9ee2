//! HTTP/2 without TLS (h2c), for backends with `appProtocol: kubernetes.io/h2c`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::uri::{self, Authority, Scheme};
use http::{Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{Error, ExchangeError};
use super::http1::connect;
use crate::hold::UpstreamBody;
use crate::runtime::StreamTasks;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Flow control windows, large enough that streamed responses do not wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Maximum size of a response head, as with HTTP/1.
const MAX_HEAD_BYTES: u32 = 256 << 10;
/// Maximum streams that were reset and are remembered for a second. Frames of others that are still on their way count as
/// errors of the endpoint. Each client that goes away resets a stream.
const MAX_RESET_STREAMS: usize = 1024;

/// A handle to a shared connection. The connection stays open while any handle exists.
#[derive(Clone, Debug)]
pub(super) struct H2Connection {
    sender: http2::SendRequest<UpstreamBody>,
    users: Arc<()>,
}

impl H2Connection {
    pub(super) async fn send(&mut self, request: Request<UpstreamBody>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Whether this is the only handle.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.users) == 1
    }
}

/// One connection per endpoint, shared by all requests to it.
#[derive(Debug)]
pub(crate) struct H2Connections {
    by_address: Mutex<HashMap<SocketAddr, Shared>>,
    idle_timeout: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    connection: H2Connection,
    last_used: Instant,
}

impl H2Connections {
    /// `tasks` tracks the connections. Once `stop` is cancelled, a connection ends with its last request.
    pub(crate) fn new(idle_timeout: Duration, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { by_address: Mutex::default(), idle_timeout, tasks, stop }
    }

    /// A connection, and whether it was used before.
    pub(super) async fn get(
        &self,
        address: SocketAddr,
        connect_timeout: Duration,
        may_reuse: bool,
    ) -> Result<(H2Connection, bool), Error> {
        if may_reuse
            && let Some(shared) = self.lock().get_mut(&address)
            && !shared.connection.sender.is_closed()
        {
            shared.last_used = Instant::now();
            return Ok((shared.connection.clone(), true));
        }
        let stream = connect(address, connect_timeout).await?;
        let ended = CancellationToken::new();
        let executor = StreamTasks::new(self.tasks.clone(), ended.clone());
        let (sender, driver) = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .max_header_list_size(MAX_HEAD_BYTES)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| Error::exchange(ExchangeError::Http2(source), false))?;
        self.tasks.spawn(async move {
            let _cancels_streams = ended.drop_guard();
            // Requests on the connection see its error themselves. It ends when the last sender is dropped.
            drop(driver.await);
        });
        let connection = H2Connection { sender, users: Arc::default() };
        let mut by_address = self.lock();
        if !self.stop.is_cancelled() {
            by_address.insert(address, Shared { connection: connection.clone(), last_used: Instant::now() });
        }
        Ok((connection, false))
    }

    /// Closes idle connections after the idle timeout.
    pub(crate) fn sweep(&self) {
        let is_stopped = self.stop.is_cancelled();
        self.lock().retain(|_, Shared { connection, last_used }| {
            if !connection.is_idle() {
                *last_used = Instant::now();
            }
            !is_stopped && !connection.sender.is_closed() && last_used.elapsed() < self.idle_timeout
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Shared>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Converts a request to HTTP/2: `:scheme` and `:authority` are taken from the URI (RFC 9113 §8.3.1).
pub(super) fn to_h2(request: &mut Request<UpstreamBody>, endpoint: SocketAddr) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(header::HOST);
    let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = host.or_else(|| endpoint.to_string().parse().ok());
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
