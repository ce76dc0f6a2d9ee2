use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_resources::AppProtocol;
use forebay_routing::RetryPolicy;
use http::{Request, Response, request};

use super::connection_pool::ConnectionPool;
use super::error::{Error, ExchangeError, Retry};
use super::h2::{H2Connections, to_h2};
use super::pooled_body::PooledBody;
use crate::hold::HeldBody;
use crate::observe::{LogLimit, Metrics, RetryReason};

/// Sends requests to endpoints.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pub(crate) connections: Arc<ConnectionPool>,
    pub(crate) h2: Arc<H2Connections>,
    pub(crate) metrics: Arc<Metrics>,
    /// Messages about endpoints that fail.
    pub(crate) log_limit: LogLimit<SocketAddr>,
    pub(crate) connect_timeout: Duration,
    pub(crate) first_byte_timeout: Duration,
}

/// Where and how one request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendPlan<'a> {
    /// Best first.
    pub(crate) endpoints: &'a [SocketAddr],
    pub(crate) protocol: AppProtocol,
    /// Maximum time from sending the request to the response head (`timeouts.backendRequest`).
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<&'a RetryPolicy>,
}

/// A response whose head has arrived.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) response: Response<PooledBody>,
    pub(crate) endpoint: SocketAddr,
    /// When the answered attempt was sent.
    pub(crate) sent: Instant,
    /// Number of attempts, including this one.
    pub(crate) attempts: usize,
}

impl Forwarder {
    /// Sends the request to the first endpoint of the plan that accepts a connection.
    ///
    /// - If no connection can be established, the next endpoint is tried.
    /// - If a reused connection closes before any byte of a response (the endpoint closed it as idle at the same time),
    ///   the request is sent to the same endpoint again on a new connection, if its method is idempotent or the endpoint
    ///   cannot have received all of it (RFC 9110 §9.2.2). The same applies to a stream that an HTTP/2 endpoint did not
    ///   process.
    /// - The retry policy of the route sends the request to the next endpoint.
    ///
    /// The last two require that the body can be sent again.
    pub(crate) async fn send(
        &self,
        head: &request::Parts,
        body: &mut HeldBody,
        plan: SendPlan<'_>,
    ) -> Result<Forwarded, Error> {
        let mut next = 0;
        let mut policy_retries = 0;
        let mut attempts = 0;
        // A body that cannot be sent again must not use a connection that may be closing.
        let mut may_reuse = body.is_replayable();
        loop {
            let Some(&endpoint) = plan.endpoints.get(next % plan.endpoints.len().max(1)) else {
                return Err(Error::NoEndpoint);
            };
            attempts += 1;
            let policy = plan.retry.filter(|policy| policy_retries < policy.attempts);
            let error = match self.attempt(head, body, plan, endpoint, may_reuse).await {
                Ok(forwarded) => {
                    let status = forwarded.response.status();
                    let is_retried = policy.is_some_and(|policy| policy.covers(status));
                    if !is_retried || !body.is_reclaimable() {
                        return Ok(Forwarded { attempts, ..forwarded });
                    }
                    drop(forwarded);
                    Error::Status(status)
                }
                Err(error) => error,
            };
            match error.retry() {
                Retry::NewConnection if may_reuse && body.reclaim() => {
                    may_reuse = false;
                    self.metrics.retried(RetryReason::ReusedConnectionClosed);
                    continue;
                }
                Retry::NextEndpoint if next + 1 < plan.endpoints.len() => {
                    self.log(endpoint, &error, "cannot reach the endpoint; trying the next one");
                    next += 1;
                    self.metrics.retried(RetryReason::ConnectFailed);
                    continue;
                }
                _ => {}
            }
            match policy {
                Some(policy) if error.is_upstream() && body.reclaim() => {
                    let wait = policy.wait(policy_retries);
                    self.log(endpoint, &error, "retrying as the route's policy says");
                    self.metrics.retried(RetryReason::Policy);
                    tokio::time::sleep(wait).await;
                    policy_retries += 1;
                    next += 1;
                    may_reuse = true;
                }
                _ => return Err(error),
            }
        }
    }

    fn log(&self, endpoint: SocketAddr, error: &Error, decision: &str) {
        if let Some(skipped) = self.log_limit.admit(&endpoint) {
            tracing::info!(%endpoint, %error, skipped, "{decision}");
        }
    }

    async fn attempt(
        &self,
        head: &request::Parts,
        body: &mut HeldBody,
        plan: SendPlan<'_>,
        endpoint: SocketAddr,
        may_reuse: bool,
    ) -> Result<Forwarded, Error> {
        if plan.protocol == AppProtocol::H2c {
            // Boxed, so that it adds nothing to the future of other requests.
            return Box::pin(self.attempt_h2(head, body, plan, endpoint, may_reuse)).await;
        }
        let reused = if may_reuse { self.connections.take(endpoint) } else { None };
        let is_reused = reused.is_some();
        let mut connection = match reused {
            Some(reused) => reused,
            None => self.connections.open(endpoint, self.connect_timeout).await?,
        };
        let sent = Instant::now();
        let timeout = self.head_timeout(plan);
        let parts = match connection.send(head, body.upstream(), sent + timeout.duration()).await {
            Ok(parts) => parts,
            Err(ExchangeError::Timeout) => return Err(timeout.error()),
            Err(source) => {
                let is_repeatable = is_reused
                    && !connection.has_received()
                    && (head.method.is_idempotent() || !connection.may_have_sent_all());
                return Err(Error::exchange(source, is_repeatable));
            }
        };
        let body = PooledBody::http1(connection, self.connections.clone());
        Ok(Forwarded { response: Response::from_parts(parts, body), endpoint, sent, attempts: 1 })
    }

    async fn attempt_h2(
        &self,
        head: &request::Parts,
        body: &mut HeldBody,
        plan: SendPlan<'_>,
        endpoint: SocketAddr,
        may_reuse: bool,
    ) -> Result<Forwarded, Error> {
        let (mut connection, is_reused) = self.h2.get(endpoint, self.connect_timeout, may_reuse).await?;
        let sent = Instant::now();
        let mut body = body.upstream();
        let upload = body.outcome();
        let mut request = Request::from_parts(copy_of(head), body);
        to_h2(&mut request, endpoint);
        let timeout = self.head_timeout(plan);
        let response = tokio::time::timeout(timeout.duration(), connection.send(request)).await;
        let response = response.map_err(|_| timeout.error())?;
        let response = response.map_err(|source| {
            let source = ExchangeError::http2(source, &upload);
            let is_repeatable = source.is_unprocessed() || (is_reused && head.method.is_idempotent());
            Error::exchange(source, is_repeatable)
        })?;
        let response = response.map(|body| PooledBody::http2(body, upload, connection));
        Ok(Forwarded { response, endpoint, sent, attempts: 1 })
    }

    fn head_timeout(&self, plan: SendPlan<'_>) -> HeadTimeout {
        match plan.timeout.filter(|timeout| *timeout < self.first_byte_timeout) {
            Some(timeout) => HeadTimeout::Route(timeout),
            None => HeadTimeout::FirstByte(self.first_byte_timeout),
        }
    }
}

/// Maximum wait for the response head, and where it comes from.
#[derive(Clone, Copy, Debug)]
enum HeadTimeout {
    Route(Duration),
    FirstByte(Duration),
}

impl HeadTimeout {
    fn duration(self) -> Duration {
        match self {
            Self::Route(duration) | Self::FirstByte(duration) => duration,
        }
    }

    fn error(self) -> Error {
        match self {
            Self::Route(limit) => Error::BackendRequestTimeout { limit },
            Self::FirstByte(waited) => Error::FirstByteTimeout { waited },
        }
    }
}

/// Method, URI and headers of a head. `request::Parts` is not `Clone` with extensions that are not.
pub(super) fn copy_of(head: &request::Parts) -> request::Parts {
    let mut copy = Request::new(()).into_parts().0;
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.headers = head.headers.clone();
    copy
}
