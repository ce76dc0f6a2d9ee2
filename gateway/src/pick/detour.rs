//! A response body on its way over the picker, which may change it.

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

use super::message::{response_body, response_trailers};
use super::replies::{Evicted, Replies};
use super::reply::{Verdict, immediate, leaves_response_body, mutate, verdict};
use crate::forward::{Broken, PooledBody};
use crate::hold::Hold;
use crate::observe::{Metrics, PickerFaultOutcome};

/// Most bytes of a response that are with the picker, or are answered and wait for the client. Pickers are known that
/// answer nothing before they have the whole of a response that is no stream.
const WINDOW_BYTES: usize = 16 << 20;
/// How long the body waits for the answer to the headers: pickers that want no body say so there.
const HEAD_START: Duration = Duration::from_millis(5);

/// Why a frame does not come.
#[derive(Debug)]
pub(crate) enum DetourError {
    Pod(Broken),
    Evicted(Evicted),
    /// The picker failed with bytes in its hands that nobody else has.
    Lost,
}

/// Sends the pod's bytes to the picker and gives the client what comes back.
///
/// A reply without a mutation means: this piece as it was. As long as what came back is what was sent, the rest
/// can be passed on without the picker at any time.
#[derive(Debug)]
pub(crate) struct Detour {
    requests: Outbox,
    replies: Replies,
    /// Goes with every message.
    metadata: Metadata,
    patience: Duration,
    /// Runs while the picker owes a reply.
    waiting: Option<Pin<Box<Sleep>>>,
    /// The body may not be sent yet; nothing once the headers are answered.
    head_start: Option<Pin<Box<Sleep>>>,
    is_head_answered: bool,
    /// What the picker has and has not answered; nothing once it changed something, so that it cannot be told any more.
    unanswered: Option<VecDeque<Bytes>>,
    unanswered_bytes: usize,
    hold: Hold,
    /// Something was sent after the last reply.
    is_owed: bool,
    /// It sends the body back piece by piece; else it answers each message.
    streams_back: bool,
    /// For the client.
    ready: VecDeque<Frame<Bytes>>,
    ready_bytes: usize,
    has_pod_ended: bool,
    trailers: Option<HeaderMap>,
    way: Way,
    /// Something of it has been given to the client.
    is_begun: bool,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    OverPicker,
    /// The picker wants no more of it, or is done without.
    Direct,
    /// All that there will be is ready.
    Ended,
}

/// What happens in the conversation.
#[derive(Debug)]
enum Event {
    Head {
        reply: HeadersResponse,
        leaves_body: bool,
    },
    /// Something became ready, or the end.
    Passed,
    Immediate(ImmediateResponse),
    /// The picker has ended its side.
    Closed,
    Fault(&'static str),
    Pod(Broken),
}

/// How the headers were answered.
#[derive(Debug)]
pub(super) enum Head {
    Answered(HeadersResponse),
    /// The response goes on without it.
    Unanswered,
    Instead(ImmediateResponse),
    Pod(Broken),
    Lost,
}

impl Detour {
    /// The response's headers have been sent.
    pub(super) fn new(
        requests: Outbox,
        replies: Replies,
        metadata: Metadata,
        patience: Duration,
        hold: Hold,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            requests,
            replies,
            metadata,
            patience,
            waiting: None,
            head_start: Some(Box::pin(sleep(HEAD_START))),
            is_head_answered: false,
            unanswered: Some(VecDeque::new()),
            unanswered_bytes: 0,
            hold,
            is_owed: true,
            streams_back: false,
            ready: VecDeque::new(),
            ready_bytes: 0,
            has_pod_ended: false,
            trailers: None,
            way: Way::OverPicker,
            is_begun: false,
            metrics,
        }
    }

    /// Both sides of the stream.
    pub(super) fn into_parts(self) -> (Outbox, Replies) {
        (self.requests, self.replies)
    }

    /// Until the response's headers are answered; the body is on its way meanwhile.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, body: &mut PooledBody) -> Poll<Head> {
        loop {
            let event = ready!(self.poll_exchange(cx, body));
            return Poll::Ready(match event {
                Event::Passed if self.way == Way::Ended => Head::Unanswered,
                Event::Passed => continue,
                Event::Immediate(reply) => Head::Instead(reply),
                Event::Pod(error) => Head::Pod(error),
                Event::Head { reply, leaves_body } => {
                    if leaves_body {
                        self.pass_on();
                    }
                    Head::Answered(reply)
                }
                Event::Closed if self.go_on_without(None) => Head::Unanswered,
                Event::Fault(why) if self.go_on_without(Some(why)) => Head::Unanswered,
                Event::Closed | Event::Fault(_) => Head::Lost,
            });
        }
    }

    /// The next frame for the client.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut PooledBody,
    ) -> Poll<Option<Result<Frame<Bytes>, DetourError>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.is_begun = true;
                self.ready_bytes -= frame.data_ref().map_or(0, Bytes::len);
                return Poll::Ready(Some(Ok(frame)));
            }
            match self.way {
                Way::Ended => return Poll::Ready(None),
                Way::Direct => {
                    if let Poll::Ready(evicted) = self.replies.poll_evicted(cx) {
                        return Poll::Ready(Some(Err(DetourError::Evicted(evicted))));
                    }
                    return Pin::new(body).poll_frame(cx).map_err(DetourError::Pod);
                }
                Way::OverPicker => {}
            }
            let gone_on = match ready!(self.poll_exchange(cx, body)) {
                Event::Head { .. } | Event::Passed => continue,
                Event::Immediate(reply) => {
                    self.replies.end();
                    let evicted = Evicted(immediate(reply).status());
                    return Poll::Ready(Some(Err(DetourError::Evicted(evicted))));
                }
                Event::Pod(error) => return Poll::Ready(Some(Err(DetourError::Pod(error)))),
                Event::Closed => self.go_on_without(None),
                Event::Fault(why) => self.go_on_without(Some(why)),
            };
            if !gone_on {
                return Poll::Ready(Some(Err(DetourError::Lost)));
            }
        }
    }

    /// Whether there is nothing more for the client.
    pub(crate) fn is_ended(&self, body: &PooledBody) -> bool {
        self.ready.is_empty()
            && match self.way {
                Way::OverPicker => false,
                Way::Direct => body.is_end_stream(),
                Way::Ended => true,
            }
    }

    /// Whether the picker may still change how long the body is.
    pub(super) fn may_change_length(&self) -> bool {
        self.way != Way::Direct
    }

    pub(crate) fn size_hint(&self, body: &PooledBody) -> SizeHint {
        let hint = body.size_hint();
        match (self.way, hint.exact()) {
            (Way::Direct, Some(rest)) => SizeHint::with_exact(rest + self.ready_bytes as u64),
            _ => SizeHint::default(),
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>, body: &mut PooledBody) -> Poll<Event> {
        // What is left of the last message goes on its way, also when no other is sent.
        let _ = self.requests.poll_free(cx);
        loop {
            match self.replies.poll_next(cx) {
                Poll::Ready(Some(Ok(reply))) => {
                    self.waiting = None;
                    self.is_owed = false;
                    match self.take(reply) {
                        Some(event) => return Poll::Ready(event),
                        None => continue,
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Event::Fault("its stream failed")),
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
            if !self.is_waited_for() {
                self.waiting = None;
                return Poll::Pending;
            }
            let patience = self.patience;
            ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
            return Poll::Ready(Event::Fault("it did not answer in time"));
        }
    }

    /// It has something that it has not answered.
    fn is_waited_for(&self) -> bool {
        let has_unanswered = self.unanswered.as_ref().map_or(self.is_owed, |queue| !queue.is_empty());
        !self.is_head_answered || has_unanswered || self.has_pod_ended
    }

    fn may_send(&mut self, cx: &mut Context<'_>) -> bool {
        if self.has_pod_ended || self.unanswered_bytes + self.ready_bytes >= WINDOW_BYTES {
            return false;
        }
        if let Some(head_start) = &mut self.head_start {
            if !self.is_head_answered && head_start.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.head_start = None;
        }
        true
    }

    /// Takes one frame of the pod's to the picker; an event only if that fails.
    fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut PooledBody) -> Poll<Option<Event>> {
        if !ready!(self.requests.poll_free(cx)) {
            // Its replies say why it takes no more.
            return Poll::Pending;
        }
        let (message, sent) = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Err(error)) => return Poll::Ready(Some(Event::Pod(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() && !body.is_end_stream() => return Poll::Ready(None),
                Ok(data) => {
                    self.has_pod_ended = body.is_end_stream();
                    let message = response_body(data.clone(), self.has_pod_ended, self.metadata.clone());
                    (message, Some(data))
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.has_pod_ended = true;
                    let message = response_trailers(&trailers, self.metadata.clone());
                    self.trailers = Some(trailers);
                    (message, None)
                }
            },
            None => {
                self.has_pod_ended = true;
                (response_body(Bytes::new(), true, self.metadata.clone()), Some(Bytes::new()))
            }
        };
        self.is_owed = true;
        let mut has_room = true;
        if let (Some(sent), Some(queue)) = (sent, &mut self.unanswered) {
            has_room = self.hold.grow(sent.len()).is_ok();
            self.unanswered_bytes += sent.len();
            queue.push_back(sent);
        }
        if !has_room {
            return Poll::Ready(Some(Event::Fault("there is no room to hold what it has not answered")));
        }
        self.requests.send(&message);
        Poll::Ready(None)
    }

    fn take(&mut self, reply: ProcessingResponse) -> Option<Event> {
        let leaves_body = leaves_response_body(&reply);
        match reply.response? {
            Reply::ImmediateResponse(reply) => Some(Event::Immediate(reply)),
            Reply::ResponseHeaders(reply) if !self.is_head_answered => {
                self.is_head_answered = true;
                let leaves_body = match verdict(reply.response.as_ref()) {
                    Ok(Verdict::Continue) => leaves_body,
                    Ok(Verdict::Leave) => true,
                    Ok(Verdict::Replace(instead)) => {
                        self.replace(instead);
                        false
                    }
                    Err(why) => return Some(Event::Fault(why)),
                };
                Some(Event::Head { reply, leaves_body })
            }
            Reply::ResponseBody(reply) => self.body_reply(reply),
            Reply::ResponseTrailers(reply) => self.trailers_reply(reply),
            // What was left of the request's phases.
            _ => None,
        }
    }

    fn body_reply(&mut self, reply: BodyResponse) -> Option<Event> {
        if let Ok(Verdict::Replace(instead)) = verdict(reply.response.as_ref()) {
            if self.is_begun {
                return Some(Event::Fault("it replaced a body of which the client has a part already"));
            }
            self.replace(instead);
            return Some(Event::Passed);
        }
        let mutation = reply.response.and_then(|common| common.body_mutation);
        let mutation = mutation.and_then(|BodyMutation { mutation }| mutation);
        if let Some(Mutation::StreamedResponse(piece)) = mutation {
            self.streams_back = true;
            self.recognise(&piece.body);
            self.pass(piece.body);
            if piece.end_of_stream {
                self.way = Way::Ended;
            }
            return Some(Event::Passed);
        }
        let Some(queue) = &mut self.unanswered else {
            return Some(Event::Fault("it answered to what it had changed already"));
        };
        let answered = queue.pop_front()?;
        self.unanswered_bytes -= answered.len();
        self.hold.shrink(answered.len());
        match mutation {
            Some(Mutation::Body(instead)) => self.pass(instead),
            Some(Mutation::ClearBody(true)) => {}
            _ => self.pass(answered),
        }
        let is_all = self.unanswered.as_ref().is_some_and(VecDeque::is_empty);
        if is_all && self.has_pod_ended && self.trailers.is_none() && !self.streams_back {
            self.way = Way::Ended;
        }
        Some(Event::Passed)
    }

    fn trailers_reply(&mut self, reply: TrailersResponse) -> Option<Event> {
        let mut trailers = self.trailers.take()?;
        if let Some(mutation) = &reply.header_mutation {
            mutate(&mut trailers, mutation);
        }
        let left = self.unanswered.take().unwrap_or_default();
        // A picker that has sent the body back does not want these; one that has not looks at no body.
        if !self.streams_back {
            left.into_iter().for_each(|piece| self.pass(piece));
        }
        self.ready.push_back(Frame::trailers(trailers));
        self.way = Way::Ended;
        Some(Event::Passed)
    }

    /// Finds what came back among what was sent.
    fn recognise(&mut self, mut back: &[u8]) {
        let Some(queue) = &mut self.unanswered else { return };
        while let Some(front) = queue.front_mut() {
            let common = front.len().min(back.len());
            if front[..common] != back[..common] {
                break;
            }
            back = &back[common..];
            self.unanswered_bytes -= common;
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
            self.hold.shrink(self.unanswered_bytes);
            self.unanswered_bytes = 0;
            self.unanswered = None;
        }
    }

    fn pass(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.ready_bytes += bytes.len();
            self.ready.push_back(Frame::data(bytes));
        }
    }

    /// The client gets this in place of all that has come and may still come.
    pub(super) fn replace(&mut self, instead: Bytes) {
        self.unanswered = None;
        self.hold.shrink(self.unanswered_bytes);
        self.unanswered_bytes = 0;
        self.ready.clear();
        self.ready_bytes = 0;
        self.trailers = None;
        self.pass(instead);
        self.way = Way::Ended;
    }

    /// What the picker has not answered, and all that is still to come, is passed on as it is.
    fn pass_on(&mut self) -> bool {
        let Some(queue) = self.unanswered.take() else { return false };
        self.hold.shrink(self.unanswered_bytes);
        self.unanswered_bytes = 0;
        queue.into_iter().for_each(|piece| self.pass(piece));
        self.way = if self.has_pod_ended { Way::Ended } else { Way::Direct };
        if let Some(trailers) = self.trailers.take() {
            self.ready.push_back(Frame::trailers(trailers));
        }
        true
    }

    /// The picker is done, or is given up for a reason. False if it cannot be done without.
    fn go_on_without(&mut self, why: Option<&'static str>) -> bool {
        self.replies.end();
        self.requests.end();
        let passed_on = self.pass_on();
        if let Some(why) = why {
            tracing::info!(why, passed_on, "an endpoint picker failed in the middle of a response");
            let outcome =
                if passed_on { PickerFaultOutcome::PassedOn } else { PickerFaultOutcome::BrokenOff };
            self.metrics.picker_failed_response(outcome);
        }
        passed_on
    }
}
