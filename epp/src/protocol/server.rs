//! The ext_proc service: one [`Session`] for each stream.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::{
    TAKES_ENDPOINT_LIST,
    proto::{ProcessingRequest, ProcessingResponse, external_processor_server::ExternalProcessor},
    session::{Next, Session},
};
use crate::{Error, observe::Metrics, schedule::Scheduler};

#[derive(Debug)]
pub struct ExtProc {
    scheduler: Arc<Scheduler>,
    metrics: Arc<Metrics>,
    max_streams: usize,
    streams: Arc<Semaphore>,
}

impl ExtProc {
    /// At most `max_streams` requests are open at once, over all connections.
    pub fn new(scheduler: Arc<Scheduler>, metrics: Arc<Metrics>, max_streams: usize) -> Self {
        let max_streams = max_streams.min(Semaphore::MAX_PERMITS);
        Self { scheduler, metrics, max_streams, streams: Arc::new(Semaphore::new(max_streams)) }
    }
}

/// Everything a stream holds. The transport drops it when the stream ends,
/// however that happens, and the pick in it is released.
struct Open {
    incoming: Streaming<ProcessingRequest>,
    session: Session,
    replies: VecDeque<ProcessingResponse>,
    next: Next,
    _permit: OwnedSemaphorePermit,
    _counted: crate::observe::OpenStream,
}

#[tonic::async_trait]
impl ExternalProcessor for ExtProc {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        // An error of the stream, not an answer to the client: the pool's failure
        // mode shall decide what an overloaded picker means.
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| {
            let error = Error::TooManyStreams(self.max_streams);
            self.metrics.refused(&error);
            Status::resource_exhausted(error.to_string())
        })?;
        let takes_list = request.metadata().contains_key(TAKES_ENDPOINT_LIST);
        let open = Open {
            incoming: request.into_inner(),
            session: Session::new(self.scheduler.clone(), self.metrics.clone(), takes_list),
            replies: VecDeque::new(),
            next: Next::Continue,
            _permit: permit,
            _counted: self.metrics.open_stream(),
        };
        Ok(Response::new(Box::pin(stream::unfold(open, answer_next))))
    }
}

/// Reads on only when all replies are taken, so a slow gateway holds back
/// itself and nothing piles up here.
async fn answer_next(mut open: Open) -> Option<(Result<ProcessingResponse, Status>, Open)> {
    loop {
        if let Some(reply) = open.replies.pop_front() {
            return Some((Ok(reply), open));
        }
        if open.next == Next::End {
            return None;
        }
        let message = match open.incoming.message().await {
            Ok(Some(message)) => message,
            // The gateway has said all, or has gone; there is nobody to answer.
            Ok(None) | Err(_) => return None,
        };
        match open.session.on_message(message, &mut open.replies) {
            Ok(next) => open.next = next,
            Err(status) => {
                open.next = Next::End;
                return Some((Err(status), open));
            }
        }
    }
}
