use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_epp::protocol::proto::processing_response::Response as Reply;
use forebay_epp::protocol::proto::{ProcessingRequest, ProcessingResponse};
use forebay_epp::schedule::Pick;
use http::{header, response};
use http_body::Body as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::PollSender;
use tokio_util::task::TaskTracker;
use tonic::Streaming;

use super::detour::{Detour, Head};
use super::exchange::Wants;
use super::message::{response_headers, served_by};
use super::replies::{Evicted, Replies};
use super::reply::{Verdict, immediate, mutate, verdict};
use crate::forward::PooledBody;
use crate::hold::{Hold, HoldBudget};
use crate::observe::Metrics;
use crate::{Error, PickerFault};

/// How long a picker may take to end its side of a finished stream.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// Most finished streams that wait for that; more are reset.
const MAX_CLOSING: usize = 4096;

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
            Self::Stream(stream) => stream.replies.poll_evicted(cx),
            Self::InProcess(_) | Self::Detour(..) => Poll::Pending,
        }
    }

    /// The response has ended.
    pub(crate) fn finish(self) {
        match self {
            Self::Stream(stream) => stream.finish(),
            Self::Detour(detour, closing) => closing.close(detour.into_replies()),
            Self::InProcess(pick) => drop(pick),
        }
    }
}

/// The stream to a picker after its decision. It stays open until the response has ended, which is
/// how a picker knows what is in flight; dropped, it is reset.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: mpsc::Sender<ProcessingRequest>,
    replies: Replies,
    wants: Wants,
    /// The longest wait for a reply.
    patience: Duration,
    closing: Closing,
    metrics: Arc<Metrics>,
}

impl Stream {
    pub(super) fn new(
        requests: mpsc::Sender<ProcessingRequest>,
        replies: Box<Streaming<ProcessingResponse>>,
        wants: Wants,
        patience: Duration,
        closing: Closing,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { requests, replies: Replies::new(replies), wants, patience, closing, metrics }
    }

    /// From here the body is on its way over the picker.
    async fn detoured(
        self,
        head: &mut response::Parts,
        served: SocketAddr,
        body: &mut PooledBody,
        hold: Hold,
    ) -> Result<Session, Error> {
        // One that takes no more says why with its replies.
        let _ = self.requests.try_send(response_headers(head, false, served_by(served)));
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
            if self.requests.try_send(message).is_err() {
                tracing::debug!("the endpoint picker's stream has no room for the response headers");
            }
            return Ok(Session::Stream(self));
        }
        let asking = async {
            if self.requests.send(message).await.is_err() {
                return Ok(None);
            }
            while let Some(reply) = self.replies.next().await {
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
        let (requests, metadata) = (PollSender::new(requests), served_by(served));
        (Box::new(Detour::new(requests, replies, metadata, patience, hold, metrics)), closing)
    }

    fn finish(self) {
        let Self { requests, replies, closing, .. } = self;
        drop(requests);
        closing.close(replies.into_open());
    }
}

/// Streams that are finished and wait for the picker's end.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Closing {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_CLOSING)), tasks }
    }

    /// What was sent reaches the picker before the stream's end does: its side is waited for.
    fn close(self, replies: Option<Box<Streaming<ProcessingResponse>>>) {
        let (Some(mut replies), Ok(place)) = (replies, self.places.try_acquire_owned()) else { return };
        self.tasks.spawn(async move {
            let until_end = async { while let Ok(Some(_)) = replies.message().await {} };
            // A picker that does not end its side in time gets a reset from the drop.
            drop(tokio::time::timeout(CLOSING_TIME, until_end).await);
            drop(place);
        });
    }
}
