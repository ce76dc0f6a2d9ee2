//! Copies of requests (`RequestMirror`). Their responses are read and dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_resources::AppProtocol;
use forebay_routing::Backend;
use http::{Request, request};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{Error, ExchangeError};
use super::h2::to_h2;
use super::pooled_body::PooledBody;
use super::send::{Forwarder, copy_of};
use crate::hold::{Hold, UploadOutcome, UpstreamBody};
use crate::observe::{Metrics, MirrorResult};

/// Maximum copies in flight. Further copies are skipped.
const MAX_MIRRORS: usize = 256;

/// Sends copies of requests. A copy never delays its request. Its body counts towards the hold budget.
#[derive(Debug)]
pub(crate) struct Mirrors {
    forwarder: Arc<Forwarder>,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
    timeout: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Mirrors {
    /// `timeout`: for one complete exchange. `tasks` tracks the copies. `stop` cancels them.
    pub(crate) fn new(
        forwarder: Arc<Forwarder>,
        metrics: Arc<Metrics>,
        timeout: Duration,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { forwarder, metrics, permits: Arc::new(Semaphore::new(MAX_MIRRORS)), timeout, tasks, stop }
    }

    /// Sends a copy of the request in the background. `hold`: an empty hold for the frames of the copy.
    pub(crate) fn send(&self, backend: &Backend, head: &request::Parts, frames: &[Bytes], mut hold: Hold) {
        let (endpoint, protocol) = match backend {
            Backend::Pool(pool) => (pool.random_endpoints(1).first().copied(), pool.protocol),
            Backend::Service(service) => (service.random_endpoints(1).first().copied(), service.protocol),
            Backend::Invalid(_) => (None, AppProtocol::Http),
        };
        let bytes = frames.iter().map(Bytes::len).sum();
        let permit = self.permits.clone().try_acquire_owned();
        let (Some(endpoint), Ok(permit), Ok(())) = (endpoint, permit, hold.grow(bytes)) else {
            self.metrics.mirrored(MirrorResult::Skipped);
            return;
        };
        let body = UpstreamBody::complete(frames.to_vec());
        let head = copy_of(head);
        let (forwarder, metrics) = (self.forwarder.clone(), self.metrics.clone());
        let (timeout, stop) = (self.timeout, self.stop.clone());
        self.tasks.spawn(async move {
            let exchange = exchange(&forwarder, endpoint, protocol, head, body, timeout);
            let result = stop.run_until_cancelled(tokio::time::timeout(timeout, exchange)).await;
            let is_sent = matches!(result, Some(Ok(Ok(()))));
            metrics.mirrored(if is_sent { MirrorResult::Sent } else { MirrorResult::Failed });
            drop((permit, hold));
        });
    }
}

/// Sends a copy and reads its response to the end, so that the copy costs the backend as much as the request.
async fn exchange(
    forwarder: &Forwarder,
    endpoint: SocketAddr,
    protocol: AppProtocol,
    head: request::Parts,
    body: UpstreamBody,
    timeout: Duration,
) -> Result<(), Error> {
    let failed = |source| Error::exchange(source, false);
    let mut response = if protocol == AppProtocol::H2c {
        let (mut connection, _) = forwarder.h2.get(endpoint, forwarder.connect_timeout, true).await?;
        let mut request = Request::from_parts(head, body);
        to_h2(&mut request, endpoint);
        let response = connection.send(request).await.map_err(ExchangeError::from).map_err(failed)?;
        PooledBody::http2(response.into_body(), UploadOutcome::default(), connection)
    } else {
        let mut connection = match forwarder.connections.take(endpoint) {
            Some(connection) => connection,
            None => forwarder.connections.open(endpoint, forwarder.connect_timeout).await?,
        };
        connection.send(&head, body, Instant::now() + timeout).await.map_err(failed)?;
        PooledBody::http1(connection, forwarder.connections.clone())
    };
    while let Some(frame) = response.frame().await {
        frame.map_err(failed)?;
    }
    Ok(())
}
