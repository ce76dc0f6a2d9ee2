//! Copies of requests, whose answers nobody waits for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_resources::AppProtocol;
use http::{Request, request};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::h2::to_h2;
use super::send::{Forwarder, request};
use super::{Broken, Connection, PooledBody};
use crate::hold::{Fate, Hold, UpstreamBody};
use crate::observe::{Metrics, MirrorResult};
use forebay_routing::Backend;

/// Most copies on the way at one time; further ones are not made.
const MAX_MIRRORS: usize = 256;

/// Sends copies of requests. They never hold up the request itself, and take from the budget for held bodies.
#[derive(Debug)]
pub(crate) struct Mirrors {
    forwarder: Arc<Forwarder>,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    patience: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Mirrors {
    /// `tasks` owns the copies; after `stop` there are none. `patience`: for one whole exchange.
    pub(crate) fn new(
        forwarder: Arc<Forwarder>,
        metrics: Arc<Metrics>,
        patience: Duration,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { forwarder, metrics, places: Arc::new(Semaphore::new(MAX_MIRRORS)), patience, tasks, stop }
    }

    /// `hold`: an empty share for the copy's frames.
    pub(crate) fn send(&self, backend: &Backend, head: &request::Parts, frames: &[Bytes], mut hold: Hold) {
        let (endpoint, protocol) = match backend {
            Backend::Pool(pool) => (pool.random_endpoints(1).first().copied(), pool.protocol),
            Backend::Service(service) => (service.random_endpoints(1).first().copied(), service.protocol),
            Backend::Invalid(_) => (None, AppProtocol::Http),
        };
        let bytes = frames.iter().map(Bytes::len).sum();
        let place = self.places.clone().try_acquire_owned();
        let (Some(endpoint), Ok(place), Ok(())) = (endpoint, place, hold.grow(bytes)) else {
            self.metrics.mirrored(MirrorResult::LeftOut);
            return;
        };
        let body = UpstreamBody::whole(frames.to_vec());
        let head = request(head);
        let (forwarder, metrics) = (self.forwarder.clone(), self.metrics.clone());
        let patience = self.patience;
        let exchange = async move {
            let body = if protocol == AppProtocol::H2c {
                let (mut connection, _) = forwarder.h2.get(endpoint, forwarder.connect_timeout, true).await?;
                let mut request = Request::from_parts(head, body);
                to_h2(&mut request, endpoint);
                let response = connection.send(request).await.map_err(Broken::from).map_err(broken)?;
                PooledBody::shared(response.into_body(), Fate::default(), connection)
            } else {
                let mut connection = match forwarder.pool.take(endpoint) {
                    Some(connection) => connection,
                    None => Connection::open(endpoint, forwarder.connect_timeout).await?,
                };
                let deadline = Instant::now() + patience;
                connection.send(&head, body, deadline).await.map_err(broken)?;
                PooledBody::new(connection, forwarder.pool.clone())
            };
            // To its end, so that the copy costs the backend what the request would have.
            let mut body = body;
            while let Some(frame) = body.frame().await {
                frame.map_err(broken)?;
            }
            Ok::<_, crate::Error>(())
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let ended = stop.run_until_cancelled(tokio::time::timeout(patience, exchange)).await;
            let is_sent = matches!(ended, Some(Ok(Ok(()))));
            metrics.mirrored(if is_sent { MirrorResult::Sent } else { MirrorResult::Failed });
            drop((place, hold));
        });
    }
}

fn broken(source: Broken) -> crate::Error {
    crate::Error::UpstreamBroken { source, reused: false }
}
