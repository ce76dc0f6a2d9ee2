//! `forebay.telemetry.v1` over gRPC.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Board, Subscription, WatchOptions};
use forebay_telemetry::v1::{Frame, WatchRequest, telemetry_server::Telemetry};

/// Readers at one time. A node's are a few pickers and a few people.
const MAX_SUBSCRIBERS: usize = 256;

/// The service that readers watch.
#[derive(Clone, Debug)]
pub struct TelemetryService {
    board: Arc<Board>,
    epoch: u64,
    subscribers: Arc<Semaphore>,
    /// Ends every stream, with a goodbye.
    shutdown: CancellationToken,
}

impl TelemetryService {
    /// `epoch` must differ from that of any earlier agent on this node.
    pub fn new(board: Arc<Board>, epoch: u64, shutdown: CancellationToken) -> Self {
        Self { board, epoch, subscribers: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)), shutdown }
    }
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let permit = Arc::clone(&self.subscribers).try_acquire_owned().map_err(|_full| {
            Status::resource_exhausted(format!("this agent serves at most {MAX_SUBSCRIBERS} readers"))
        })?;
        let request = request.into_inner();
        tracing::debug!(subscriber = %request.subscriber, "a reader subscribed");
        let options = WatchOptions::requested(request.min_interval_us, request.heartbeat_ms);
        let subscription = Subscription::new(Arc::clone(&self.board), self.epoch, options);
        let shutdown = self.shutdown.clone();
        let frames = stream::unfold(Some((subscription, permit)), move |state| {
            let shutdown = shutdown.clone();
            async move {
                let (mut subscription, permit) = state?;
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => Some((Ok(subscription.goodbye("the agent stops")), None)),
                    frame = subscription.next() => Some((Ok(frame), Some((subscription, permit)))),
                }
            }
        });
        Ok(Response::new(Box::pin(frames)))
    }
}
