//! Serves `forebay.telemetry.v1` over gRPC.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
};

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Publisher, Subscription, WatchOptions};
use forebay_service::{incoming::Peer, shares::Shares};
use forebay_telemetry::v1::{Frame, WatchRequest, telemetry_server::Telemetry};

/// Maximum streams at one time. A node has a few pickers and CLIs as readers.
const MAX_SUBSCRIBERS: usize = 256;
/// A peer can hold as many streams as are free: one alone holds half of them.
const SHARE_WEIGHT: usize = 1;
/// Longest name of a reader in the log.
const MAX_NAME_CHARS: usize = 64;

/// The gRPC service.
#[derive(Clone, Debug)]
pub struct TelemetryService {
    publisher: Arc<Publisher>,
    epoch: u64,
    subscribers: Arc<Shares>,
    shutdown: CancellationToken,
}

impl TelemetryService {
    /// `epoch` must differ from that of every earlier run on this node. `shutdown` ends all streams with a goodbye.
    pub fn new(publisher: Arc<Publisher>, epoch: u64, shutdown: CancellationToken) -> Self {
        let subscribers = Shares::new(MAX_SUBSCRIBERS, SHARE_WEIGHT);
        Self { publisher, epoch, subscribers, shutdown }
    }
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let address = peer.as_ref().map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), Peer::address);
        let share = self.subscribers.take(address, 1).ok_or_else(|| {
            Status::resource_exhausted(format!(
                "subscriber limit exceeded: {address} holds its share of {MAX_SUBSCRIBERS} streams; close some of them"
            ))
        })?;
        let permit = (share, peer.as_ref().map(Peer::open_request));
        let request = request.into_inner();
        let subscriber: String = request.subscriber.chars().take(MAX_NAME_CHARS).collect();
        tracing::debug!(subscriber, "subscribed");
        let options = WatchOptions::requested(request.min_interval_us, request.heartbeat_ms);
        let subscription = Subscription::new(Arc::clone(&self.publisher), self.epoch, options);
        let shutdown = self.shutdown.clone();
        let frames = stream::unfold(Some((subscription, permit)), move |state| {
            let shutdown = shutdown.clone();
            async move {
                let (mut subscription, permit) = state?;
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => Some((Ok(subscription.goodbye("agent is shutting down")), None)),
                    frame = subscription.next() => Some((Ok(frame), Some((subscription, permit)))),
                }
            }
        });
        Ok(Response::new(Box::pin(frames)))
    }
}
