//! Serves `forebay.telemetry.v1` over gRPC.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
};

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Publisher, Subscription, WatchOptions, request_stream::RequestSubscription, requests::Filter};
use forebay_service::{
    incoming::Peer,
    places::OpenRequest,
    shares::{Share, Shares},
};
use forebay_telemetry::{
    requests::{DEFAULT_PER_SECOND, MAX_PER_SECOND},
    v1::{Frame, RequestFrame, WatchRequest, WatchRequestsRequest, telemetry_server::Telemetry},
};

/// Maximum streams at one time. A node has a few pickers and CLIs as readers.
const MAX_SUBSCRIBERS: usize = 256;
/// Maximum streams of requests at one time. Each has a queue.
const MAX_REQUEST_STREAMS: usize = 32;
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
    request_streams: Arc<Shares>,
    shutdown: CancellationToken,
}

impl TelemetryService {
    /// `epoch` must differ from that of every earlier run on this node. `shutdown` ends all streams with a goodbye.
    pub fn new(publisher: Arc<Publisher>, epoch: u64, shutdown: CancellationToken) -> Self {
        let subscribers = Shares::new(MAX_SUBSCRIBERS, SHARE_WEIGHT);
        let request_streams = Shares::new(MAX_REQUEST_STREAMS, SHARE_WEIGHT);
        Self { publisher, epoch, subscribers, request_streams, shutdown }
    }
}

/// Held while a stream is open.
type Permit = (Share, Option<OpenRequest>);

/// Takes a stream of the peer's share of `limit` streams.
fn permit<T>(request: &Request<T>, streams: &Arc<Shares>, limit: usize) -> Result<Permit, Status> {
    let peer = request.extensions().get::<Peer>();
    let address = peer.map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), Peer::address);
    let share = streams.take(address, 1).ok_or_else(|| {
        Status::resource_exhausted(format!(
            "subscriber limit exceeded: {address} holds its share of {limit} streams; close some of them"
        ))
    })?;
    Ok((share, peer.map(Peer::open_request)))
}

fn log_subscriber(name: &str, stream: &str) {
    let subscriber: String = name.chars().take(MAX_NAME_CHARS).collect();
    tracing::debug!(subscriber, stream, "subscribed");
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let permit = permit(&request, &self.subscribers, MAX_SUBSCRIBERS)?;
        let request = request.into_inner();
        log_subscriber(&request.subscriber, "state");
        let options = WatchOptions::requested(request.min_interval_us, request.heartbeat_ms)
            .with_latencies(request.latencies);
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

    type WatchRequestsStream = Pin<Box<dyn Stream<Item = Result<RequestFrame, Status>> + Send>>;

    async fn watch_requests(
        &self,
        request: Request<WatchRequestsRequest>,
    ) -> Result<Response<Self::WatchRequestsStream>, Status> {
        let permit = permit(&request, &self.request_streams, MAX_REQUEST_STREAMS)?;
        let WatchRequestsRequest { subscriber, max_per_second, filter } = request.into_inner();
        log_subscriber(&subscriber, "requests");
        let filter = Filter::try_from(filter.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let max_per_second = match max_per_second {
            0 => DEFAULT_PER_SECOND,
            number if number <= MAX_PER_SECOND => number,
            number => {
                return Err(Status::invalid_argument(format!(
                    "max_per_second is {number}; the maximum of this agent is {MAX_PER_SECOND}"
                )));
            }
        };
        let subscription = RequestSubscription::new(Arc::clone(&self.publisher), filter, max_per_second);
        let shutdown = self.shutdown.clone();
        let frames = stream::unfold(Some((subscription, permit)), move |state| {
            let shutdown = shutdown.clone();
            async move {
                let (mut subscription, permit) = state?;
                let end = |reason| Some((Err(Status::unavailable(reason)), None));
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => end("agent is shutting down"),
                    frame = subscription.next() => match frame {
                        Some(frame) => Some((Ok(frame), Some((subscription, permit)))),
                        None => end("the events of the kernel programs cannot be read; the agent's log has the reason"),
                    },
                }
            }
        });
        Ok(Response::new(Box::pin(frames)))
    }
}
