//! HTTP/2 without TLS, to backends whose `appProtocol` asks for it.

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

use super::http1::connect;
use crate::Error;
use crate::accept::StreamTasks;
use crate::hold::UpstreamBody;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Answers stream: windows that let them come without stops.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// A connection that is used. It stays open as long as somebody has it, whatever becomes of the others' share.
#[derive(Clone, Debug)]
pub(crate) struct H2Connection {
    sender: http2::SendRequest<UpstreamBody>,
    users: Arc<()>,
}

impl H2Connection {
    pub(super) async fn send(&mut self, request: Request<UpstreamBody>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Nobody else has it.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.users) == 1
    }
}

/// One connection to each backend, shared by all requests to it.
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
    used: Instant,
}

impl H2Connections {
    /// `tasks` owns the connections; after `stop` each ends with its last user.
    pub(crate) fn new(idle_timeout: Duration, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { by_address: Mutex::default(), idle_timeout, tasks, stop }
    }

    /// Gives a connection, and whether it was used before.
    pub(super) async fn get(
        &self,
        address: SocketAddr,
        patience: Duration,
        may_reuse: bool,
    ) -> Result<(H2Connection, bool), Error> {
        if may_reuse
            && let Some(shared) = self.lock().get_mut(&address)
            && !shared.connection.sender.is_closed()
        {
            shared.used = Instant::now();
            return Ok((shared.connection.clone(), true));
        }
        let stream = connect(address, patience).await?;
        let gone = CancellationToken::new();
        let executor = StreamTasks::new(self.tasks.clone(), gone.clone());
        let (sender, driver) = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| Error::UpstreamBroken { source: source.into(), reused: false })?;
        self.tasks.spawn(async move {
            let _ends_streams = gone.drop_guard();
            // Its end is also seen by the requests that are on it; with nobody left to send one, it ends too.
            drop(driver.await);
        });
        let connection = H2Connection { sender, users: Arc::default() };
        let mut by_address = self.lock();
        if !self.stop.is_cancelled() {
            by_address.insert(address, Shared { connection: connection.clone(), used: Instant::now() });
        }
        Ok((connection, false))
    }

    /// Lets go of connections that nobody has used for a while.
    pub(crate) fn sweep(&self) {
        let is_over = self.stop.is_cancelled();
        self.lock().retain(|_, Shared { connection, used }| {
            if !connection.is_idle() {
                *used = Instant::now();
            }
            !is_over && !connection.sender.is_closed() && used.elapsed() < self.idle_timeout
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Shared>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// HTTP/2 has the host in the URI.
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
