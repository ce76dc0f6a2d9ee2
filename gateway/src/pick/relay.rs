//! Relays a response body through the picker, which may change it.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use forebay_grpc::Outbox;
use forebay_grpc::proto::processing_response::Response as Reply;
use forebay_grpc::proto::{
    BodyMutation, BodyResponse, HeadersResponse, ImmediateResponse, Metadata, ProcessingResponse,
    TrailersResponse, body_mutation::Mutation,
};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::error::Evicted;
use super::message::{response_body, response_trailers};
use super::replies::Replies;
use super::reply::{BodyAction, body_action, mutate, rejection, skips_response_body};
use crate::forward::{ExchangeError, PooledBody};
use crate::hold::Hold;
use crate::observe::{Metrics, PickerFailureOutcome};

/// Maximum bytes of a response that the picker has, or that wait for the client. Some pickers reply only after the whole
/// of a response that is not a stream.
const WINDOW_BYTES: usize = 16 << 20;
/// Maximum wait for the reply to the headers before the body is sent. The reply may say that the picker wants no body.
const BODY_DELAY: Duration = Duration::from_millis(5);

/// Why the relay failed.
#[derive(Debug)]
pub(crate) enum RelayError {
    Upstream(ExchangeError),
    Evicted(Evicted),
    /// The picker failed while it had bytes that cannot be recovered.
    Lost,
}

/// Sends the body of the endpoint to the picker, and what comes back to the client.
///
/// A reply without a mutation leaves its piece unchanged. As long as all pieces came back unchanged, the rest of the body
/// can bypass the picker at any time.
#[derive(Debug)]
pub(crate) struct BodyRelay {
    requests: Outbox,
    replies: Replies,
    /// Metadata of every message.
    metadata: Metadata,
    timeout: Duration,
    /// Runs while the picker owes a reply.
    reply_deadline: Option<Pin<Box<Sleep>>>,
    /// The body is not sent before this, or before the reply to the headers.
    body_delay: Option<Pin<Box<Sleep>>>,
    has_head_reply: bool,
    /// Pieces that were sent and not replied to. `None` once the picker changed something: the rest is then unknown.
    pending: Option<VecDeque<Bytes>>,
    pending_bytes: usize,
    hold: Hold,
    /// Something was sent after the last reply.
    owes_reply: bool,
    /// The picker sends the body back (`streamed_response`) instead of replying to each message.
    streams_back: bool,
    /// Frames for the client.
    ready: VecDeque<Frame<Bytes>>,
    ready_bytes: usize,
    has_upstream_ended: bool,
    trailers: Option<HeaderMap>,
    path: Path,
    /// The client was sent a part of the body.
    has_started: bool,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Picker,
    /// The picker wants no more, or failed and can be bypassed.
    Direct,
    /// No more frames will be added to `ready`.
    Ended,
}

/// Something that happened in the exchange.
#[derive(Debug)]
enum Event {
    Head {
        reply: HeadersResponse,
        skips_body: bool,
    },
    /// A frame or the end of the body is ready.
    Progress,
    Immediate(ImmediateResponse),
    /// The picker ended its side.
    Closed,
    Fault(&'static str),
    Upstream(ExchangeError),
}

/// Result of waiting for the reply to the headers.
#[derive(Debug)]
pub(super) enum HeadReply {
    Reply(HeadersResponse),
    /// There is no reply. The response continues unchanged.
    None,
    /// The picker sends a response of its own.
    Immediate(ImmediateResponse),
    Upstream(ExchangeError),
    /// See [`RelayError::Lost`].
    Lost,
}

impl BodyRelay {
    /// The response headers were sent already.
    pub(super) fn new(
        requests: Outbox,
        replies: Replies,
        metadata: Metadata,
        timeout: Duration,
        hold: Hold,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            requests,
            replies,
            metadata,
            timeout,
            reply_deadline: None,
            body_delay: Some(Box::pin(sleep(BODY_DELAY))),
            has_head_reply: false,
            pending: Some(VecDeque::new()),
            pending_bytes: 0,
            hold,
            owes_reply: true,
            streams_back: false,
            ready: VecDeque::new(),
            ready_bytes: 0,
            has_upstream_ended: false,
            trailers: None,
            path: Path::Picker,
            has_started: false,
            metrics,
        }
    }

    /// Both sides of the stream.
    pub(super) fn into_parts(self) -> (Outbox, Replies) {
        (self.requests, self.replies)
    }

    /// Waits for the reply to the headers. The body may be sent meanwhile.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, body: &mut PooledBody) -> Poll<HeadReply> {
        loop {
            let event = ready!(self.poll_exchange(cx, body));
            return Poll::Ready(match event {
                Event::Progress if self.path == Path::Ended => HeadReply::None,
                Event::Progress => continue,
                Event::Immediate(reply) => HeadReply::Immediate(reply),
                Event::Upstream(error) => HeadReply::Upstream(error),
                Event::Head { reply, skips_body } => {
                    if skips_body {
                        self.bypass();
                    }
                    HeadReply::Reply(reply)
                }
                Event::Closed if self.continue_without(None) => HeadReply::None,
                Event::Fault(why) if self.continue_without(Some(why)) => HeadReply::None,
                Event::Closed | Event::Fault(_) => HeadReply::Lost,
            });
        }
    }

    /// The next frame for the client.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut PooledBody,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.has_started = true;
                self.ready_bytes -= frame.data_ref().map_or(0, Bytes::len);
                return Poll::Ready(Some(Ok(frame)));
            }
            match self.path {
                Path::Ended => return Poll::Ready(None),
                Path::Direct => {
                    if let Poll::Ready(evicted) = self.replies.poll_evicted(cx) {
                        return Poll::Ready(Some(Err(RelayError::Evicted(evicted))));
                    }
                    return Pin::new(body).poll_frame(cx).map_err(RelayError::Upstream);
                }
                Path::Picker => {}
            }
            let continues = match ready!(self.poll_exchange(cx, body)) {
                Event::Head { .. } | Event::Progress => continue,
                Event::Immediate(reply) => {
                    self.replies.end();
                    let evicted = Evicted(rejection(reply).status);
                    return Poll::Ready(Some(Err(RelayError::Evicted(evicted))));
                }
                Event::Upstream(error) => return Poll::Ready(Some(Err(RelayError::Upstream(error)))),
                Event::Closed => self.continue_without(None),
                Event::Fault(why) => self.continue_without(Some(why)),
            };
            if !continues {
                return Poll::Ready(Some(Err(RelayError::Lost)));
            }
        }
    }

    /// Whether the client has everything.
    pub(crate) fn is_ended(&self, body: &PooledBody) -> bool {
        self.ready.is_empty()
            && match self.path {
                Path::Picker => false,
                Path::Direct => body.is_end_stream(),
                Path::Ended => true,
            }
    }

    /// Whether the picker may still change the length of the body.
    pub(super) fn may_change_length(&self) -> bool {
        self.path != Path::Direct
    }

    pub(crate) fn size_hint(&self, body: &PooledBody) -> SizeHint {
        let hint = body.size_hint();
        match (self.path, hint.exact()) {
            (Path::Direct, Some(rest)) => SizeHint::with_exact(rest + self.ready_bytes as u64),
            _ => SizeHint::default(),
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>, body: &mut PooledBody) -> Poll<Event> {
        // Sends the rest of the last message.
        let _ = self.requests.poll_free(cx);
        loop {
            match self.replies.poll_next(cx) {
                Poll::Ready(Some(Ok(reply))) => {
                    self.reply_deadline = None;
                    self.owes_reply = false;
                    match self.take(reply) {
                        Some(event) => return Poll::Ready(event),
                        None => continue,
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Event::Fault("the stream failed")),
                Poll::Ready(None) => return Poll::Ready(Event::Closed),
                Poll::Pending => {}
            }
            if self.may_send(cx)
                && let Poll::Ready(event) = self.poll_send(cx, body)
            {
                match event {
                    Some(event) => return Poll::Ready(event),
                    None => continue,
                }
            }
            if !self.is_reply_due() {
                self.reply_deadline = None;
                return Poll::Pending;
            }
            let timeout = self.timeout;
            ready!(self.reply_deadline.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(cx));
            return Poll::Ready(Event::Fault("no reply in time"));
        }
    }

    /// Whether the picker owes a reply.
    fn is_reply_due(&self) -> bool {
        let has_pending = self.pending.as_ref().map_or(self.owes_reply, |queue| !queue.is_empty());
        !self.has_head_reply || has_pending || self.has_upstream_ended
    }

    fn may_send(&mut self, cx: &mut Context<'_>) -> bool {
        if self.has_upstream_ended || self.pending_bytes + self.ready_bytes >= WINDOW_BYTES {
            return false;
        }
        if let Some(body_delay) = &mut self.body_delay {
            if !self.has_head_reply && body_delay.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.body_delay = None;
        }
        true
    }

    /// Sends one frame of the endpoint to the picker. Returns an event only if that fails.
    fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut PooledBody) -> Poll<Option<Event>> {
        if !ready!(self.requests.poll_free(cx)) {
            // Its replies say why it reads no more.
            return Poll::Pending;
        }
        let (message, sent) = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Err(error)) => return Poll::Ready(Some(Event::Upstream(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() && !body.is_end_stream() => return Poll::Ready(None),
                Ok(data) => {
                    self.has_upstream_ended = body.is_end_stream();
                    let message = response_body(data.clone(), self.has_upstream_ended, self.metadata.clone());
                    (message, Some(data))
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.has_upstream_ended = true;
                    let message = response_trailers(&trailers, self.metadata.clone());
                    self.trailers = Some(trailers);
                    (message, None)
                }
            },
            None => {
                self.has_upstream_ended = true;
                (response_body(Bytes::new(), true, self.metadata.clone()), Some(Bytes::new()))
            }
        };
        self.owes_reply = true;
        let mut has_room = true;
        if let (Some(sent), Some(queue)) = (sent, &mut self.pending) {
            has_room = self.hold.grow(sent.len()).is_ok();
            self.pending_bytes += sent.len();
            queue.push_back(sent);
        }
        if !has_room {
            return Poll::Ready(Some(Event::Fault("the hold budget is exhausted")));
        }
        let fault = self.requests.send(&message).is_err().then_some("a message to the picker is too long");
        Poll::Ready(fault.map(Event::Fault))
    }

    fn take(&mut self, reply: ProcessingResponse) -> Option<Event> {
        let skips_body = skips_response_body(&reply);
        match reply.response? {
            Reply::ImmediateResponse(reply) => Some(Event::Immediate(reply)),
            Reply::ResponseHeaders(reply) if !self.has_head_reply => {
                self.has_head_reply = true;
                let skips_body = match body_action(reply.response.as_ref()) {
                    Ok(BodyAction::Continue) => skips_body,
                    Ok(BodyAction::Keep) => true,
                    Ok(BodyAction::Replace(replacement)) => {
                        self.replace(replacement);
                        false
                    }
                    Err(why) => return Some(Event::Fault(why)),
                };
                Some(Event::Head { reply, skips_body })
            }
            Reply::ResponseBody(reply) => self.body_reply(reply),
            Reply::ResponseTrailers(reply) => self.trailers_reply(reply),
            // Late replies to the request phases are ignored.
            _ => None,
        }
    }

    fn body_reply(&mut self, reply: BodyResponse) -> Option<Event> {
        if let Ok(BodyAction::Replace(replacement)) = body_action(reply.response.as_ref()) {
            if self.has_started {
                return Some(Event::Fault("it replaced a body that was partly sent to the client"));
            }
            self.replace(replacement);
            return Some(Event::Progress);
        }
        let mutation = reply.response.and_then(|common| common.body_mutation);
        let mutation = mutation.and_then(|BodyMutation { mutation }| mutation);
        if let Some(Mutation::StreamedResponse(piece)) = mutation {
            self.streams_back = true;
            self.match_returned(&piece.body);
            self.pass(piece.body);
            if piece.end_of_stream {
                self.path = Path::Ended;
            }
            return Some(Event::Progress);
        }
        let Some(queue) = &mut self.pending else {
            return Some(Event::Fault("it replied to a piece that it had changed already"));
        };
        let answered = queue.pop_front()?;
        self.pending_bytes -= answered.len();
        self.hold.shrink(answered.len());
        match mutation {
            Some(Mutation::Body(replacement)) => self.pass(replacement),
            Some(Mutation::ClearBody(true)) => {}
            _ => self.pass(answered),
        }
        let is_all = self.pending.as_ref().is_some_and(VecDeque::is_empty);
        if is_all && self.has_upstream_ended && self.trailers.is_none() && !self.streams_back {
            self.path = Path::Ended;
        }
        Some(Event::Progress)
    }

    fn trailers_reply(&mut self, reply: TrailersResponse) -> Option<Event> {
        let mut trailers = self.trailers.take()?;
        if let Some(mutation) = &reply.header_mutation {
            mutate(&mut trailers, mutation);
        }
        let left = self.pending.take().unwrap_or_default();
        // A picker that streams the body back has dropped these pieces. Any other picker does not read the body.
        if !self.streams_back {
            left.into_iter().for_each(|piece| self.pass(piece));
        }
        self.ready.push_back(Frame::trailers(trailers));
        self.path = Path::Ended;
        Some(Event::Progress)
    }

    /// Matches bytes that came back with the pieces that were sent.
    fn match_returned(&mut self, mut back: &[u8]) {
        let Some(queue) = &mut self.pending else { return };
        while let Some(front) = queue.front_mut() {
            let common = front.len().min(back.len());
            if front[..common] != back[..common] {
                break;
            }
            back = &back[common..];
            self.pending_bytes -= common;
            self.hold.shrink(common);
            let _ = front.split_to(common);
            if !front.is_empty() {
                break;
            }
            queue.pop_front();
            if back.is_empty() {
                break;
            }
        }
        if !back.is_empty() {
            self.hold.shrink(self.pending_bytes);
            self.pending_bytes = 0;
            self.pending = None;
        }
    }

    fn pass(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.ready_bytes += bytes.len();
            self.ready.push_back(Frame::data(bytes));
        }
    }

    /// Replaces the whole body.
    pub(super) fn replace(&mut self, replacement: Bytes) {
        self.pending = None;
        self.hold.shrink(self.pending_bytes);
        self.pending_bytes = 0;
        self.ready.clear();
        self.ready_bytes = 0;
        self.trailers = None;
        self.pass(replacement);
        self.path = Path::Ended;
    }

    /// Passes pending pieces and the rest of the body to the client unchanged. False if the picker changed something.
    fn bypass(&mut self) -> bool {
        let Some(queue) = self.pending.take() else { return false };
        self.hold.shrink(self.pending_bytes);
        self.pending_bytes = 0;
        queue.into_iter().for_each(|piece| self.pass(piece));
        self.path = if self.has_upstream_ended { Path::Ended } else { Path::Direct };
        if let Some(trailers) = self.trailers.take() {
            self.ready.push_back(Frame::trailers(trailers));
        }
        true
    }

    /// Stops using the picker, which has ended its side or failed (`reason`). False if it has bytes that are lost.
    fn continue_without(&mut self, reason: Option<&'static str>) -> bool {
        self.replies.end();
        self.requests.end();
        let is_bypassed = self.bypass();
        if let Some(reason) = reason {
            tracing::info!(reason, is_bypassed, "endpoint picker failed while it relayed a response body");
            let outcome =
                if is_bypassed { PickerFailureOutcome::Bypassed } else { PickerFailureOutcome::Aborted };
            self.metrics.picker_response_failed(outcome);
        }
        is_bypassed
    }
}
