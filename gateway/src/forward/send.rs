use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response, request};
use hyper::body::Incoming;

use super::{Connection, Pool, PooledBody};
use crate::hold::{HeldBody, RestError, UpstreamBody};
use crate::observe::{Metrics, RetryReason};
use crate::{Error, Retry};

/// Sends requests to pods.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
}

/// A pod has begun to answer.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) response: Response<PooledBody>,
    pub(crate) endpoint: SocketAddr,
    /// When the request that is answered was begun to be sent.
    pub(crate) sent: Instant,
}

impl Forwarder {
    pub(crate) fn new(
        pool: Arc<Pool>,
        metrics: Arc<Metrics>,
        connect_timeout: Duration,
        first_byte_timeout: Duration,
    ) -> Self {
        Self { pool, metrics, connect_timeout, first_byte_timeout }
    }

    /// Sends the request to the first of `endpoints` that takes a connection.
    ///
    /// The next one is tried only when nothing was sent; a request that was sent is sent again only if it
    /// went out on a reused connection that ended without a byte of response (the server closed it
    /// as idle in the same moment), on a fresh one to the same endpoint, and if all of its body is held.
    ///
    /// `limit`: the longest wait for the head of the response once a request is being sent.
    pub(crate) async fn send(
        &self,
        head: &request::Parts,
        body: &mut HeldBody,
        endpoints: &[SocketAddr],
        limit: Option<Duration>,
    ) -> Result<Forwarded, Error> {
        let mut endpoints = endpoints.iter().copied();
        let mut endpoint = endpoints.next().ok_or(Error::NoReadyEndpoint)?;
        // A body that cannot be sent twice gets no connection that might be closing.
        let mut may_reuse = body.is_complete();
        loop {
            let reused = if may_reuse { self.pool.take(endpoint) } else { None };
            let is_reused = reused.is_some();
            let error = match self.connection(reused, endpoint).await {
                Err(error) => error,
                Ok(mut connection) => {
                    let sent = Instant::now();
                    match self.exchange(&mut connection, head, body.upstream(), limit, is_reused).await {
                        Ok(response) => {
                            let response =
                                response.map(|body| PooledBody::new(body, connection, self.pool.clone()));
                            return Ok(Forwarded { response, endpoint, sent });
                        }
                        Err(error) => error,
                    }
                }
            };
            match error.retry() {
                Retry::FreshConnection => {
                    may_reuse = false;
                    self.metrics.retried(RetryReason::ReusedConnectionClosed);
                }
                Retry::NextEndpoint => {
                    tracing::info!(%endpoint, %error, "a model server cannot be reached");
                    let Some(next) = endpoints.next() else { return Err(error) };
                    endpoint = next;
                    self.metrics.retried(RetryReason::ConnectFailed);
                }
                Retry::No => return Err(error),
            }
        }
    }

    async fn connection(
        &self,
        reused: Option<Connection>,
        endpoint: SocketAddr,
    ) -> Result<Connection, Error> {
        match reused {
            Some(reused) => Ok(reused),
            None => Connection::open(endpoint, self.connect_timeout).await,
        }
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        head: &request::Parts,
        body: UpstreamBody,
        limit: Option<Duration>,
        reused: bool,
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        let limit = limit.filter(|limit| *limit < self.first_byte_timeout);
        let patience = limit.unwrap_or(self.first_byte_timeout);
        match tokio::time::timeout(patience, connection.send(request)).await {
            Err(_) => Err(match limit {
                Some(limit) => Error::BackendRequestTimeout { limit },
                None => Error::FirstByteTimeout { waited: patience },
            }),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(match rest_error(&source) {
                Some(error) => error.into(),
                None => Error::UpstreamBroken { source, reused },
            }),
        }
    }
}

/// The client's body, not the model server, was what ended the exchange.
fn rest_error(error: &hyper::Error) -> Option<RestError> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<RestError>() {
            return Some(*error);
        }
        cause = error.source();
    }
    None
}
