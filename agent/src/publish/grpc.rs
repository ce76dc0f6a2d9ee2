//! Serves `forebay.telemetry.v1` over gRPC.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Publisher, Subscription, WatchOptions};
use forebay_telemetry::v1::{Frame, WatchRequest, telemetry_server::Telemetry};

/// Maximum streams at one time. A node has a few pickers and CLIs as readers.
const MAX_SUBSCRIBERS: usize = 256;

/// The gRPC service.
#[derive(Clone, Debug)]
pub struct TelemetryService {
    publisher: Arc<Publisher>,
    epoch: u64,
    subscribers: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl TelemetryService {
    /// `epoch` must differ from that of every earlier run on this node. `shutdown` ends all streams with a goodbye.
    pub fn new(publisher: Arc<Publisher>, epoch: u64, shutdown: CancellationToken) -> Self {
        Self { publisher, epoch, subscribers: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)), shutdown }
    }
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let permit = Arc::clone(&self.subscribers).try_acquire_owned().map_err(|_full| {
            Status::resource_exhausted(format!("subscriber limit exceeded: at most {MAX_SUBSCRIBERS}"))
        })?;
        let request = request.into_inner();
        tracing::debug!(subscriber = %request.subscriber, "subscribed");
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
