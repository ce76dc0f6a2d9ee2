use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use forebay_epp::protocol::proto::ProcessingResponse;
use forebay_epp::protocol::proto::processing_response::Response as Reply;
use futures_util::StreamExt as _;
use http::StatusCode;
use tonic::{Status, Streaming};

use super::reply::immediate;

/// The picker has taken its decision back while the response was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint picker evicted the request with {0}")]
pub(crate) struct Evicted(pub(crate) StatusCode);

/// What a picker still has to say after its decision; nothing once it has ended its side.
#[derive(Debug)]
pub(super) struct Replies(Option<Box<Streaming<ProcessingResponse>>>);

impl Replies {
    pub(super) fn new(open: Box<Streaming<ProcessingResponse>>) -> Self {
        Self(Some(open))
    }

    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<ProcessingResponse, Status>>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        let reply = ready!(open.poll_next_unpin(cx));
        if !matches!(reply, Some(Ok(_))) {
            self.end();
        }
        Poll::Ready(reply)
    }

    /// Nothing as well where its side ends with an error.
    pub(super) async fn next(&mut self) -> Option<ProcessingResponse> {
        poll_fn(|cx| self.poll_next(cx)).await?.ok()
    }

    /// Ready when the picker wants the request to end; nothing else that it says means anything now.
    pub(super) fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        while let Some(reply) = ready!(self.poll_next(cx)) {
            if let Ok(ProcessingResponse { response: Some(Reply::ImmediateResponse(reply)), .. }) = reply {
                self.end();
                return Poll::Ready(Evicted(immediate(reply).status()));
            }
        }
        Poll::Pending
    }

    /// Nobody listens any more.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// The picker's side, to be waited for, if it has not ended.
    pub(super) fn into_open(self) -> Option<Box<Streaming<ProcessingResponse>>> {
        self.0
    }
}
