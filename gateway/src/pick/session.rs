use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_epp::schedule::Pick;
use forebay_grpc::Outbox;
use forebay_grpc::proto::processing_response::Response as Reply;
use http::{header, response};
use http_body::Body as _;

use super::closing::Closing;
use super::detour::{Detour, Head};
use super::exchange::Wants;
use super::message::{response_headers, served_by};
use super::replies::{Evicted, Replies};
use super::reply::{Verdict, immediate, mutate, verdict};
use crate::forward::PooledBody;
use crate::hold::{Hold, HoldBudget};
use crate::observe::Metrics;
use crate::{Error, PickerFault};

/// A decision's hold on its picker, which counts the request as long as this lives.
#[derive(Debug)]
pub(crate) enum Session {
    Stream(Stream),
    /// The response's body goes over the picker.
    Detour(Box<Detour>, Closing),
    InProcess(Pick),
}

impl Session {
    /// Tells the picker who answered, and lets it change the response's headers; an error is its own answer
    /// in place of the response. `budget`: for what of the body is with the picker.
    pub(crate) async fn answered(
        self,
        head: &mut response::Parts,
        served: SocketAddr,
        body: &mut PooledBody,
        budget: &Arc<HoldBudget>,
    ) -> Result<Self, Error> {
        match self {
            Self::Stream(stream) if stream.wants == Wants::Body && !body.is_end_stream() => {
                stream.detoured(head, served, body, budget.open()).await
            }
            Self::Stream(stream) => stream.answered(head, served, body.is_end_stream(), budget).await,
            Self::InProcess(mut pick) => {
                pick.served_by(served);
                Ok(Self::InProcess(pick))
            }
            Self::Detour(..) => Ok(self),
        }
    }

    /// The way of the body, if it leads over the picker.
    pub(crate) fn detour(&self) -> Option<&Detour> {
        match self {
            Self::Detour(detour, _) => Some(detour),
            Self::Stream(_) | Self::InProcess(_) => None,
        }
    }

    pub(crate) fn detour_mut(&mut self) -> Option<&mut Detour> {
        match self {
            Self::Detour(detour, _) => Some(detour),
            Self::Stream(_) | Self::InProcess(_) => None,
        }
    }

    /// Ready when the picker wants the request to end.
    pub(crate) fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        match self {
            Self::Stream(stream) => stream.poll_evicted(cx),
            Self::InProcess(_) | Self::Detour(..) => Poll::Pending,
        }
    }

    /// The response has ended.
    pub(crate) fn finish(self) {
        match self {
            Self::Stream(stream) => stream.finish(),
            Self::Detour(detour, closing) => {
                let (requests, replies) = detour.into_parts();
                finish(requests, replies, &closing);
            }
            Self::InProcess(pick) => drop(pick),
        }
    }
}

/// The stream to a picker after its decision. It stays open until the response has ended, which is
/// how a picker knows what is in flight; dropped, it is reset.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: Outbox,
    replies: Replies,
    wants: Wants,
    /// The longest wait for a reply.
    patience: Duration,
    closing: Closing,
    metrics: Arc<Metrics>,
}

impl Stream {
    pub(super) fn new(
        requests: Outbox,
        replies: Replies,
        wants: Wants,
        patience: Duration,
        closing: Closing,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { requests, replies, wants, patience, closing, metrics }
    }

    /// From here the body is on its way over the picker.
    async fn detoured(
        mut self,
        head: &mut response::Parts,
        served: SocketAddr,
        body: &mut PooledBody,
        hold: Hold,
    ) -> Result<Session, Error> {
        // One that takes no more says why with its replies.
        if self.requests.free().await {
            self.requests.send(&response_headers(head, false, served_by(served)));
        }
        let (mut detour, closing) = self.into_detour(served, hold);
        match poll_fn(|cx| detour.poll_head(cx, body)).await {
            Head::Answered(reply) => {
                if let Some(mutation) = reply.response.and_then(|common| common.header_mutation) {
                    mutate(&mut head.headers, &mutation);
                }
            }
            Head::Unanswered => {}
            Head::Instead(reply) => return Err(immediate(reply)),
            Head::Pod(source) => return Err(Error::UpstreamBroken { source, reused: false }),
            Head::Lost => return Err(Error::PickerUnavailable(PickerFault::ResponseLost)),
        }
        if detour.may_change_length() {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        Ok(Session::Detour(detour, closing))
    }

    /// A picker that does not answer any more is not missed: the response is there.
    async fn answered(
        mut self,
        head: &mut response::Parts,
        served: SocketAddr,
        end_of_stream: bool,
        budget: &Arc<HoldBudget>,
    ) -> Result<Session, Error> {
        let message = response_headers(head, end_of_stream, served_by(served));
        if self.wants == Wants::Nothing {
            if self.requests.is_free() {
                self.requests.send(&message);
            } else {
                tracing::debug!("the endpoint picker's stream has no room for the response headers");
            }
            return Ok(Session::Stream(self));
        }
        let asking = async {
            if !self.requests.free().await {
                return Ok(None);
            }
            self.requests.send(&message);
            while let Some(Ok(reply)) = self.replies.next().await {
                match reply.response {
                    Some(Reply::ImmediateResponse(reply)) => return Err(immediate(reply)),
                    Some(Reply::ResponseHeaders(reply)) => return Ok(reply.response),
                    // What was left of the request's phases.
                    _ => {}
                }
            }
            Ok(None)
        };
        let Ok(common) = tokio::time::timeout(self.patience, asking).await else {
            tracing::info!("an endpoint picker did not answer to a response's headers in time");
            return Ok(Session::Stream(self));
        };
        let common = common?;
        let verdict = match verdict(common.as_ref()) {
            Ok(verdict) => verdict,
            Err(why) => {
                tracing::info!(why, "an endpoint picker's answer to a response's headers is passed over");
                return Ok(Session::Stream(self));
            }
        };
        if let Some(mutation) = common.and_then(|common| common.header_mutation) {
            mutate(&mut head.headers, &mutation);
        }
        let Verdict::Replace(instead) = verdict else { return Ok(Session::Stream(self)) };
        head.headers.remove(header::CONTENT_LENGTH);
        let (mut detour, closing) = self.into_detour(served, budget.open());
        detour.replace(instead);
        Ok(Session::Detour(detour, closing))
    }

    fn into_detour(self, served: SocketAddr, hold: Hold) -> (Box<Detour>, Closing) {
        let Self { requests, replies, patience, closing, metrics, .. } = self;
        (Box::new(Detour::new(requests, replies, served_by(served), patience, hold, metrics)), closing)
    }

    fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<Evicted> {
        // What is left of the last message goes on its way meanwhile.
        let _ = self.requests.poll_free(cx);
        self.replies.poll_evicted(cx)
    }

    fn finish(self) {
        finish(self.requests, self.replies, &self.closing);
    }
}

/// Ends our side, and waits for the picker's where all that was sent has been handed over.
fn finish(mut requests: Outbox, replies: Replies, closing: &Closing) {
    if requests.is_free() {
        requests.end();
        closing.close(replies);
    }
}
