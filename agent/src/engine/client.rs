//! A persistent HTTP connection to one engine.

use std::net::SocketAddr;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};

/// Maximum response. vLLM's `/metrics` has about 60 KB per model.
const MAX_BODY_BYTES: usize = 8 << 20;
/// Maximum response that needs no permit of [`LARGE_BODIES`].
const SMALL_BODY_BYTES: usize = 128 << 10;
/// Larger responses that are read at the same time, of all engines of the node.
static LARGE_BODIES: Semaphore = Semaphore::const_new(4);

/// Why a request failed, as one line for an operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("{path} failed: {source}")]
    Http { path: &'static str, source: hyper::Error },
    #[error("{path} returned {status}")]
    Status { path: &'static str, status: StatusCode },
    #[error("{path} is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge { path: &'static str },
    #[error("{path} ended within the body")]
    Body { path: &'static str },
}

pub(super) struct EngineClient {
    address: SocketAddr,
    connection: Option<SendRequest<Empty<Bytes>>>,
    /// The task that drives the connection.
    driver: JoinSet<()>,
}

impl EngineClient {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, driver: JoinSet::new() }
    }

    /// Returns the body of a response with status 200. Retries once if the engine closed the persistent connection.
    pub(super) async fn get(&mut self, path: &'static str) -> Result<Bytes, FetchError> {
        let reused = self.connection.is_some();
        match self.try_get(path).await {
            Err(FetchError::Http { .. }) if reused => self.try_get(path).await,
            result => result,
        }
    }

    async fn try_get(&mut self, path: &'static str) -> Result<Bytes, FetchError> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect(path).await?,
        };
        let http = |source| FetchError::Http { path, source };
        connection.ready().await.map_err(http)?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = http::Uri::from_static(path);
        let host = header::HeaderValue::from_maybe_shared(Bytes::from(self.address.to_string()));
        if let Ok(host) = host {
            request.headers_mut().insert(header::HOST, host);
        }
        let response = connection.send_request(request).await.map_err(http)?;
        let status = response.status();
        let body = read(response.into_body(), path).await?;
        self.connection = Some(connection);
        if status != StatusCode::OK {
            return Err(FetchError::Status { path, status });
        }
        Ok(body)
    }

    async fn connect(&mut self, path: &'static str) -> Result<SendRequest<Empty<Bytes>>, FetchError> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| FetchError::Connect(self.address, error))?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| FetchError::Http { path, source })?;
        self.driver.abort_all();
        self.driver = JoinSet::new();
        self.driver.spawn(async move {
            // Errors are returned by the request.
            let _ = driver.await;
        });
        Ok(connection)
    }
}

/// Reads a body within the limits.
async fn read(mut incoming: Incoming, path: &'static str) -> Result<Bytes, FetchError> {
    let mut body = Vec::new();
    let mut permit = None;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(|_ended| FetchError::Body { path })?.into_data() else { continue };
        if body.len() + data.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLarge { path });
        }
        if permit.is_none() && body.len() + data.len() > SMALL_BODY_BYTES {
            permit = LARGE_BODIES.acquire().await.ok();
        }
        body.extend_from_slice(&data);
    }
    Ok(body.into())
}
