use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use forebay_grpc::proto::ProcessingResponse;
use forebay_grpc::proto::processing_response::Response as Reply;
use forebay_grpc::{Inbox, status_in, status_of};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{Response, StatusCode};
use tonic::{Code, Status};

use super::error::Evicted;
use super::reply::rejection;

/// Maximum size of a reply.
const MAX_REPLY_BYTES: usize = 16 << 20;

/// The receiving side of a stream to a picker.
#[derive(Debug)]
pub(super) enum Replies {
    /// No response headers have arrived. gRPC servers may send them only with the first reply.
    Opening(ResponseFuture),
    Open(Inbox<ProcessingResponse>),
    /// The picker has ended its side, or further replies are ignored.
    Ended,
}

impl Replies {
    pub(super) fn opening(response: ResponseFuture) -> Self {
        Self::Opening(response)
    }

    pub(super) fn is_opening(&self) -> bool {
        matches!(self, Self::Opening(_))
    }

    /// The next reply. `None` after the picker has ended its side.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<ProcessingResponse, Status>>> {
        let next = loop {
            match self {
                Self::Opening(response) => match ready!(Pin::new(response).poll(cx)) {
                    Err(error) => break Some(Err(status_of(&error))),
                    Ok(response) => match opened(response) {
                        Ok(Some(inbox)) => *self = Self::Open(inbox),
                        Ok(None) => break None,
                        Err(status) => break Some(Err(status)),
                    },
                },
                Self::Open(inbox) => break ready!(inbox.poll_message(cx)).transpose(),
                Self::Ended => break None,
            }
        };
        if !matches!(next, Some(Ok(_))) {
            self.end();
        }
        Poll::Ready(next)
    }

    /// See [`Replies::poll_next`]. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Ready when the picker evicts the request. Other replies are ignored.
    pub(super) fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        while let Some(reply) = ready!(self.poll_next(cx)) {
            if let Ok(ProcessingResponse { response: Some(Reply::ImmediateResponse(reply)), .. }) = reply {
                self.end();
                return Poll::Ready(Evicted(rejection(reply).status));
            }
        }
        Poll::Pending
    }

    /// Ignores all further replies.
    pub(super) fn end(&mut self) {
        *self = Self::Ended;
    }
}

/// Handles the response headers. `None` if the stream has ended with them.
fn opened(response: Response<RecvStream>) -> Result<Option<Inbox<ProcessingResponse>>, Status> {
    if let Some(status) = status_in(response.headers()) {
        return if status.code() == Code::Ok { Ok(None) } else { Err(status) };
    }
    match response.status() {
        StatusCode::OK => Ok(Some(Inbox::of_server(response.into_body(), MAX_REPLY_BYTES))),
        status => Err(Status::unavailable(format!("not a gRPC server: HTTP status {status}"))),
    }
}
