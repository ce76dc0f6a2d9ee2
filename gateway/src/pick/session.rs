use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_epp::schedule::Outcome;
use forebay_grpc::Outbox;
use forebay_grpc::proto::processing_response::Response as Reply;
use http::{header, response};
use http_body::Body as _;

use super::error::{Error, Evicted, PickerFault};
use super::half_closed::HalfClosedStreams;
use super::in_process::InProcessPick;
use super::message::{response_headers, served_by};
use super::prompt::RestOfPrompt;
use super::question::ResponseInterest;
use super::relay::{BodyRelay, HeadReply};
use super::replies::Replies;
use super::reply::{BodyAction, body_action, mutate, rejection};
use crate::forward::{self, PooledBody};
use crate::hold::{Hold, HoldBudget};
use crate::observe::Metrics;

/// The picker's view of a request that it chose an endpoint for. The picker counts the request until this is dropped.
#[derive(Debug)]
pub(crate) enum Session {
    Stream(Stream),
    /// The response body is relayed through the picker.
    Relay(Box<BodyRelay>, HalfClosedStreams),
    InProcess(InProcessPick),
}

impl Session {
    /// Sends the response head to the picker, which may change it, or replace the response (an error). `budget`: for body
    /// bytes that the picker has.
    pub(crate) async fn on_response(
        self,
        head: &mut response::Parts,
        served: SocketAddr,
        body: &mut PooledBody,
        budget: &Arc<HoldBudget>,
    ) -> Result<Self, Error> {
        match self {
            Self::Stream(stream) if stream.interest == ResponseInterest::Body && !body.is_end_stream() => {
                // Boxed, so that it adds nothing to the future of requests that are picked in process.
                Box::pin(stream.relay_body(head, served, body, budget.open())).await
            }
            Self::Stream(stream) => {
                Box::pin(stream.on_response(head, served, body.is_end_stream(), budget)).await
            }
            Self::InProcess(mut pick) => {
                pick.pick_mut().served_by(served);
                if head.status.is_server_error() {
                    pick.ends_with(Outcome::Failed);
                }
                Ok(Self::InProcess(pick))
            }
            Self::Relay(..) => Ok(self),
        }
    }

    /// The relay of the body, if the body is relayed through the picker.
    pub(crate) fn relay(&self) -> Option<&BodyRelay> {
        match self {
            Self::Relay(relay, _) => Some(relay),
            Self::Stream(_) | Self::InProcess(_) => None,
        }
    }

    pub(crate) fn relay_mut(&mut self) -> Option<&mut BodyRelay> {
        match self {
            Self::Relay(relay, _) => Some(relay),
            Self::Stream(_) | Self::InProcess(_) => None,
        }
    }

    /// Sends the last message about the prompt, once the client's body was read to its end. Wakes the task for that.
    pub(crate) fn send_rest_of_prompt(&mut self, cx: &mut Context<'_>) {
        if let Self::Stream(stream) = self {
            stream.send_rest(cx);
        }
    }

    /// Ready when the picker evicts the request.
    pub(crate) fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        match self {
            Self::Stream(stream) => stream.poll_evicted(cx),
            Self::InProcess(_) | Self::Relay(..) => Poll::Pending,
        }
    }

    /// The response is complete.
    pub(crate) fn finish(self) {
        match self {
            Self::Stream(stream) => stream.finish(),
            Self::Relay(relay, half_closed) => {
                let (requests, replies) = relay.into_parts();
                finish(requests, replies, &half_closed);
            }
            Self::InProcess(pick) => pick.finish(),
        }
    }

    /// The first byte of the response's content is there.
    pub(crate) fn first_byte(&mut self) {
        if let Self::InProcess(pick) = self {
            pick.first_byte();
        }
    }

    /// The request did not end as the endpoint's status says. `failed`: because of the endpoint or the way to it.
    pub(crate) fn broken(&mut self, failed: bool) {
        if let Self::InProcess(pick) = self {
            pick.ends_with(if failed { Outcome::Failed } else { Outcome::Unknown });
        }
    }
}

/// The stream to a picker after its decision.
///
/// It stays open until the response is complete, so that the picker knows what is in flight. Dropping it resets it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) requests: Outbox,
    pub(super) replies: Replies,
    pub(super) interest: ResponseInterest,
    /// Set until the last message about the prompt was sent.
    pub(super) rest: Option<RestOfPrompt>,
    /// Maximum wait for a reply.
    pub(super) timeout: Duration,
    pub(super) half_closed: HalfClosedStreams,
    pub(super) metrics: Arc<Metrics>,
}

impl Stream {
    fn send_rest(&mut self, cx: &mut Context<'_>) {
        let Some(rest) = &mut self.rest else { return };
        if self.requests.poll_free(cx).is_pending() {
            return;
        }
        let Poll::Ready(message) = Pin::new(rest).poll(cx) else { return };
        self.rest = None;
        // Without a message the body was not read to its end. If the message cannot be sent, the picker knows less of what
        // the endpoint holds.
        if let Ok(message) = message {
            let _ = self.requests.send(&message);
        }
    }

    /// Starts to relay the body through the picker, until the picker has replied to the head.
    async fn relay_body(
        mut self,
        head: &mut response::Parts,
        served: SocketAddr,
        body: &mut PooledBody,
        hold: Hold,
    ) -> Result<Session, Error> {
        // If the picker takes no more, its replies say why.
        if self.requests.free().await {
            self.requests.send(&response_headers(head, false, served_by(served))).map_err(unavailable)?;
        }
        let (mut relay, half_closed) = self.into_relay(served, hold);
        match poll_fn(|cx| relay.poll_head(cx, body)).await {
            HeadReply::Reply(reply) => {
                if let Some(mutation) = reply.response.and_then(|common| common.header_mutation) {
                    mutate(&mut head.headers, &mutation);
                }
            }
            HeadReply::None => {}
            HeadReply::Immediate(reply) => return Err(Error::Rejected(rejection(reply))),
            HeadReply::Upstream(source) => {
                return Err(forward::Error::Exchange { source, is_repeatable: false }.into());
            }
            HeadReply::Lost => return Err(Error::Unavailable(PickerFault::ResponseLost)),
        }
        if relay.may_change_length() {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        Ok(Session::Relay(relay, half_closed))
    }

    /// Sends the head and waits for the reply to it, if the picker wants to reply. A picker that does not reply in time
    /// does not change the response.
    async fn on_response(
        mut self,
        head: &mut response::Parts,
        served: SocketAddr,
        end_of_stream: bool,
        budget: &Arc<HoldBudget>,
    ) -> Result<Session, Error> {
        let message = response_headers(head, end_of_stream, served_by(served));
        if self.interest == ResponseInterest::None {
            if self.requests.is_free() {
                self.requests.send(&message).map_err(unavailable)?;
            } else {
                tracing::debug!(
                    "the stream to the endpoint picker is full; not sending the response headers"
                );
            }
            return Ok(Session::Stream(self));
        }
        let asking = async {
            if !self.requests.free().await {
                return Ok(None);
            }
            self.requests.send(&message).map_err(unavailable)?;
            while let Some(Ok(reply)) = self.replies.next().await {
                match reply.response {
                    Some(Reply::ImmediateResponse(reply)) => return Err(Error::Rejected(rejection(reply))),
                    Some(Reply::ResponseHeaders(reply)) => return Ok(reply.response),
                    // Late replies to the request phases are ignored.
                    _ => {}
                }
            }
            Ok(None)
        };
        let Ok(common) = tokio::time::timeout(self.timeout, asking).await else {
            tracing::info!(
                "the endpoint picker did not reply to the response headers in time; continuing without its changes"
            );
            return Ok(Session::Stream(self));
        };
        let common = common?;
        let action = match body_action(common.as_ref()) {
            Ok(action) => action,
            Err(why) => {
                tracing::info!(
                    why,
                    "ignoring an invalid reply of the endpoint picker to the response headers"
                );
                return Ok(Session::Stream(self));
            }
        };
        if let Some(mutation) = common.and_then(|common| common.header_mutation) {
            mutate(&mut head.headers, &mutation);
        }
        let BodyAction::Replace(replacement) = action else { return Ok(Session::Stream(self)) };
        head.headers.remove(header::CONTENT_LENGTH);
        let (mut relay, half_closed) = self.into_relay(served, budget.open());
        relay.replace(replacement);
        Ok(Session::Relay(relay, half_closed))
    }

    fn into_relay(self, served: SocketAddr, hold: Hold) -> (Box<BodyRelay>, HalfClosedStreams) {
        let Self { requests, replies, timeout, half_closed, metrics, .. } = self;
        let relay = BodyRelay::new(requests, replies, served_by(served), timeout, hold, metrics);
        (Box::new(relay), half_closed)
    }

    fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        self.send_rest(cx);
        // Sends the rest of the last message.
        let _ = self.requests.poll_free(cx);
        self.replies.poll_evicted(cx)
    }

    fn finish(self) {
        finish(self.requests, self.replies, &self.half_closed);
    }
}

fn unavailable(status: tonic::Status) -> Error {
    Error::Unavailable(PickerFault::Stream(Box::new(status)))
}

/// Ends the sending side. If everything was sent, the picker gets time to end its side; otherwise the stream is reset.
fn finish(mut requests: Outbox, replies: Replies, half_closed: &HalfClosedStreams) {
    if requests.is_free() {
        requests.end();
        half_closed.add(replies);
    }
}
