use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use forebay_epp::protocol::proto::processing_response::Response as Reply;
use forebay_epp::protocol::proto::{ProcessingRequest, ProcessingResponse};
use forebay_epp::schedule::Pick;
use futures_util::StreamExt as _;
use http::{StatusCode, response};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tonic::Streaming;

use super::message::response_headers;
use super::reply::{immediate, mutate};
use crate::Error;

/// How long a picker may take to end its side of a finished stream.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// Most finished streams that wait for that; more are reset.
const MAX_CLOSING: usize = 4096;

/// A decision's hold on its picker, which counts the request as long as this lives.
#[derive(Debug)]
pub(crate) enum Session {
    Stream(Stream),
    InProcess(Pick),
}

/// The picker has taken its decision back while the response was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint picker evicted the request with {0}")]
pub(crate) struct Evicted(pub(crate) StatusCode);

impl Session {
    /// Tells the picker who answered, and lets it change the response's headers; an error is its own answer
    /// in place of the response.
    pub(crate) async fn answered(
        &mut self,
        head: &mut response::Parts,
        served: SocketAddr,
        end_of_stream: bool,
    ) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.answered(head, served, end_of_stream).await,
            Self::InProcess(pick) => {
                pick.served_by(served);
                Ok(())
            }
        }
    }

    /// Ready when the picker wants the request to end.
    pub(crate) fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        match self {
            Self::Stream(stream) => stream.poll_evicted(cx),
            Self::InProcess(_) => Poll::Pending,
        }
    }

    /// The response has ended.
    pub(crate) fn finish(self) {
        match self {
            Self::Stream(stream) => stream.finish(),
            Self::InProcess(pick) => drop(pick),
        }
    }
}

/// The stream to a picker after its decision. It stays open until the response has ended, which is
/// how a picker knows what is in flight; dropped, it is reset.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: mpsc::Sender<ProcessingRequest>,
    replies: Box<Streaming<ProcessingResponse>>,
    /// The longest wait for its reply to the response's headers; nothing if it has none to give.
    patience: Option<Duration>,
    /// The picker has ended its side.
    is_over: bool,
    closing: Closing,
}

impl Stream {
    pub(super) fn new(
        requests: mpsc::Sender<ProcessingRequest>,
        replies: Box<Streaming<ProcessingResponse>>,
        patience: Option<Duration>,
        closing: Closing,
    ) -> Self {
        Self { requests, replies, patience, is_over: false, closing }
    }

    /// A picker that does not answer any more is not missed: the response is there.
    async fn answered(
        &mut self,
        head: &mut response::Parts,
        served: SocketAddr,
        end_of_stream: bool,
    ) -> Result<(), Error> {
        let message = response_headers(head, served, end_of_stream);
        let Some(patience) = self.patience else {
            if self.requests.try_send(message).is_err() {
                tracing::debug!("the endpoint picker's stream has no room for the response headers");
            }
            return Ok(());
        };
        let asking = async {
            if self.requests.send(message).await.is_err() {
                return Ok(None);
            }
            loop {
                match self.replies.message().await {
                    Ok(Some(ProcessingResponse { response: Some(reply), .. })) => match reply {
                        Reply::ImmediateResponse(reply) => return Err(immediate(reply)),
                        Reply::ResponseHeaders(reply) => return Ok(Some(reply)),
                        // What was left of the request's phases.
                        _ => {}
                    },
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Ok(None),
                }
            }
        };
        match tokio::time::timeout(patience, asking).await {
            Err(_) => tracing::info!("an endpoint picker did not answer to a response's headers in time"),
            Ok(reply) => match reply? {
                None => self.is_over = true,
                Some(reply) => {
                    if let Some(mutation) = reply.response.and_then(|common| common.header_mutation) {
                        mutate(&mut head.headers, &mutation);
                    }
                }
            },
        }
        Ok(())
    }

    fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        while !self.is_over {
            match ready!(self.replies.poll_next_unpin(cx)) {
                Some(Ok(ProcessingResponse { response: Some(Reply::ImmediateResponse(reply)), .. })) => {
                    self.is_over = true;
                    return Poll::Ready(Evicted(immediate(reply).status()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => self.is_over = true,
            }
        }
        Poll::Pending
    }

    /// What was sent reaches the picker before the stream's end does.
    fn finish(self) {
        let Self { requests, mut replies, is_over, closing, .. } = self;
        drop(requests);
        if is_over {
            return;
        }
        let Ok(place) = closing.places.try_acquire_owned() else { return };
        closing.tasks.spawn(async move {
            let until_end = async { while let Ok(Some(_)) = replies.message().await {} };
            // A picker that does not end its side in time gets a reset from the drop.
            drop(tokio::time::timeout(CLOSING_TIME, until_end).await);
            drop(place);
        });
    }
}

/// Streams that are finished and wait for the picker's end.
#[derive(Clone, Debug)]
pub(super) struct Closing {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Closing {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_CLOSING)), tasks }
    }
}
