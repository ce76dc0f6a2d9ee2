use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_resources::AppProtocol;
use http::{Request, Response, request};

use super::h2::{H2Connections, to_h2};
use super::{Broken, Connection, Pool, PooledBody};
use crate::hold::HeldBody;
use crate::observe::{Metrics, RetryReason};
use crate::{Error, Retry};
use forebay_routing::RetryPolicy;

/// Sends requests to pods.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pub(crate) pool: Arc<Pool>,
    pub(crate) h2: Arc<H2Connections>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) connect_timeout: Duration,
    pub(crate) first_byte_timeout: Duration,
}

/// Where a request may go, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route<'a> {
    /// Best first.
    pub(crate) endpoints: &'a [SocketAddr],
    pub(crate) protocol: AppProtocol,
    /// The longest wait for the head of the response once a request is being sent.
    pub(crate) limit: Option<Duration>,
    pub(crate) retry: Option<&'a RetryPolicy>,
}

/// A pod has begun to answer.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) response: Response<PooledBody>,
    pub(crate) endpoint: SocketAddr,
    /// When the request that is answered was begun to be sent.
    pub(crate) sent: Instant,
    /// How often it was tried.
    pub(crate) attempts: usize,
}

impl Forwarder {
    /// Sends the request to the first of the endpoints that takes a connection.
    ///
    /// The next one is tried when nothing was sent. A request that was sent is sent again if it went out on a
    /// reused connection that ended without a byte of response (the server closed it as idle in the same
    /// moment), on a fresh one to the same endpoint; and as often as the route's own policy says, on the next
    /// endpoint. Both only if all of the body is still held.
    pub(crate) async fn send(
        &self,
        head: &request::Parts,
        body: &mut HeldBody,
        route: Route<'_>,
    ) -> Result<Forwarded, Error> {
        let mut place = 0;
        let mut further = 0;
        let mut attempts = 0;
        // A body that cannot be sent twice gets no connection that might be closing.
        let mut may_reuse = body.is_replayable();
        loop {
            let Some(&endpoint) = route.endpoints.get(place % route.endpoints.len().max(1)) else {
                return Err(Error::NoReadyEndpoint);
            };
            attempts += 1;
            let policy = route.retry.filter(|policy| further < policy.attempts);
            let error = match self.attempt(head, body, route, endpoint, may_reuse).await {
                Ok(forwarded) => {
                    let status = forwarded.response.status();
                    let is_retried = policy.is_some_and(|policy| policy.covers(status));
                    if !is_retried || !body.is_reclaimable() {
                        return Ok(Forwarded { attempts, ..forwarded });
                    }
                    drop(forwarded);
                    Error::UpstreamStatus(status)
                }
                Err(error) => error,
            };
            match error.retry() {
                Retry::FreshConnection if body.reclaim() => {
                    may_reuse = false;
                    self.metrics.retried(RetryReason::ReusedConnectionClosed);
                    continue;
                }
                Retry::NextEndpoint if place + 1 < route.endpoints.len() => {
                    tracing::info!(%endpoint, %error, "a model server cannot be reached");
                    place += 1;
                    self.metrics.retried(RetryReason::ConnectFailed);
                    continue;
                }
                _ => {}
            }
            match policy {
                Some(policy) if error.is_of_upstream() && body.reclaim() => {
                    tracing::info!(%endpoint, %error, "a request is tried again, as its route says");
                    self.metrics.retried(RetryReason::Policy);
                    tokio::time::sleep(policy.wait(further)).await;
                    further += 1;
                    place += 1;
                    may_reuse = true;
                }
                _ => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        head: &request::Parts,
        body: &mut HeldBody,
        route: Route<'_>,
        endpoint: SocketAddr,
        may_reuse: bool,
    ) -> Result<Forwarded, Error> {
        if route.protocol == AppProtocol::H2c {
            return self.attempt_h2(head, body, route, endpoint, may_reuse).await;
        }
        let reused = if may_reuse { self.pool.take(endpoint) } else { None };
        let is_reused = reused.is_some();
        let mut connection = match reused {
            Some(reused) => reused,
            None => Connection::open(endpoint, self.connect_timeout).await?,
        };
        let sent = Instant::now();
        let wait = self.wait(route.limit);
        let parts = match connection.send(head, body.upstream(), sent + wait.longest()).await {
            Ok(parts) => parts,
            Err(Broken::Late) => return Err(wait.error()),
            Err(source) => return Err(broken(source, is_reused && !connection.has_heard())),
        };
        let body = PooledBody::new(connection, self.pool.clone());
        Ok(Forwarded { response: Response::from_parts(parts, body), endpoint, sent, attempts: 1 })
    }

    async fn attempt_h2(
        &self,
        head: &request::Parts,
        body: &mut HeldBody,
        route: Route<'_>,
        endpoint: SocketAddr,
        may_reuse: bool,
    ) -> Result<Forwarded, Error> {
        let (mut connection, is_reused) = self.h2.get(endpoint, self.connect_timeout, may_reuse).await?;
        let sent = Instant::now();
        let mut body = body.upstream();
        let fate = body.fate();
        let mut request = Request::from_parts(request(head), body);
        to_h2(&mut request, endpoint);
        let wait = self.wait(route.limit);
        let response = tokio::time::timeout(wait.longest(), connection.send(request)).await;
        let response = response.map_err(|_| wait.error())?;
        let response = response.map_err(|source| broken(Broken::http2(source, &fate), is_reused))?;
        let response = response.map(|body| PooledBody::shared(body, fate, connection));
        Ok(Forwarded { response, endpoint, sent, attempts: 1 })
    }

    fn wait(&self, limit: Option<Duration>) -> Wait {
        match limit.filter(|limit| *limit < self.first_byte_timeout) {
            Some(limit) => Wait::RouteLimit(limit),
            None => Wait::FirstByte(self.first_byte_timeout),
        }
    }
}

/// How long the head of a response is waited for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    RouteLimit(Duration),
    FirstByte(Duration),
}

impl Wait {
    fn longest(self) -> Duration {
        match self {
            Self::RouteLimit(longest) | Self::FirstByte(longest) => longest,
        }
    }

    fn error(self) -> Error {
        match self {
            Self::RouteLimit(limit) => Error::BackendRequestTimeout { limit },
            Self::FirstByte(waited) => Error::FirstByteTimeout { waited },
        }
    }
}

/// A copy of what a pod is sent of a head.
pub(super) fn request(head: &request::Parts) -> request::Parts {
    let mut copy = Request::new(()).into_parts().0;
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.headers = head.headers.clone();
    copy
}

fn broken(source: Broken, reused: bool) -> Error {
    match source {
        Broken::Rest(error) => error.into(),
        source => Error::UpstreamBroken { source, reused },
    }
}
