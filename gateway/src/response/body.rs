use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_openai::{Finding, ResponseScanner, Restore, UsageFilter};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};

use crate::error::Abort;
use crate::forward::PooledBody;
use crate::observe::Record;
use crate::pick::{RelayError, Session};
use crate::runtime::IdleTimeout;

/// The body of a response to a client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Written by the gateway.
    Complete(Option<Bytes>),
    /// Streamed from an endpoint, frame by frame.
    Upstream(Box<UpstreamResponse>),
}

/// The response of an endpoint while it is streamed to the client.
///
/// The client going away drops it, which closes the connection to the endpoint and resets the stream to the picker.
#[derive(Debug)]
pub(crate) struct UpstreamResponse {
    body: PooledBody,
    session: Option<Session>,
    /// The client gets no more frames, even if the endpoint sends more.
    is_finished: bool,
    record: Box<Record>,
    restore: Option<Box<Restore>>,
    usage_filter: Option<Box<UsageFilter>>,
    /// Trailers that wait until the usage filter has passed its last bytes.
    trailers: Option<Frame<Bytes>>,
    scanner: ResponseScanner,
    /// Set for event streams.
    idle: Option<IdleTimeout>,
    /// When the timeouts of the route expire.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// What a response of an endpoint needs while it is streamed.
#[derive(Debug)]
pub(crate) struct ResponseState {
    pub(crate) session: Option<Session>,
    /// Restores the model name of the client.
    pub(crate) restore: Option<Box<Restore>>,
    /// Removes usage that the client did not ask for.
    pub(crate) usage_filter: Option<Box<UsageFilter>>,
    /// The response is aborted at this time.
    pub(crate) deadline: Option<Instant>,
}

impl ResponseBody {
    pub(crate) fn complete(body: Bytes) -> Self {
        Self::Complete((!body.is_empty()).then_some(body))
    }

    /// `idle_timeout`: maximum time between frames of an event stream.
    pub(crate) fn upstream(
        body: PooledBody,
        state: ResponseState,
        record: Box<Record>,
        scanner: ResponseScanner,
        idle_timeout: Duration,
    ) -> Self {
        let ResponseState { session, restore, usage_filter, deadline } = state;
        let idle = scanner.is_event_stream().then(|| IdleTimeout::new(idle_timeout));
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline.into())));
        let mut response = UpstreamResponse {
            body,
            session,
            is_finished: false,
            record,
            restore,
            usage_filter,
            trailers: None,
            scanner,
            idle,
            deadline,
        };
        response.finish_if_ended();
        Self::Upstream(Box::new(response))
    }
}

impl UpstreamResponse {
    /// The next frame, from the endpoint or from the picker that relays the body.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        match self.session.as_mut().and_then(Session::relay_mut) {
            _ if self.is_finished => Poll::Ready(None),
            None => Pin::new(&mut self.body).poll_frame(cx).map_err(Abort::Upstream),
            Some(relay) => relay.poll_frame(cx, &mut self.body).map_err(|error| match error {
                RelayError::Upstream(error) => Abort::Upstream(error),
                RelayError::Evicted(evicted) => Abort::Evicted(evicted),
                RelayError::Lost => Abort::Picker,
            }),
        }
    }

    fn is_ended(&self) -> bool {
        let is_holding = self.usage_filter.as_ref().is_some_and(|filter| filter.is_holding());
        match self.session.as_ref().and_then(Session::relay) {
            _ if self.is_finished => true,
            _ if is_holding || self.trailers.is_some() => false,
            None => self.body.is_end_stream(),
            Some(relay) => relay.is_ended(&self.body),
        }
    }

    /// Ends the response before it is complete.
    fn abort(&mut self, reason: Abort) -> Abort {
        let (status, code) = reason.status_and_code();
        tracing::info!(%reason, code, "response aborted");
        self.record.responding(status);
        self.record.failed(code);
        if let Some(session) = &mut self.session {
            session.broken(reason.is_of_endpoint());
        }
        self.finish();
        reason
    }

    fn finish_if_ended(&mut self) {
        if self.is_ended() {
            self.finish();
        }
    }

    /// The frame with the model name of the client. `None` if it becomes empty.
    fn restored(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(restore) = &mut self.restore else { return Some(frame) };
        let frame = frame.map_data(|data| restore.feed(data));
        frame.data_ref().is_none_or(|data| !data.is_empty()).then_some(frame)
    }

    /// The frame without usage that the client did not ask for. `None` if it becomes empty.
    fn filtered(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(filter) = &mut self.usage_filter else { return Some(frame) };
        if frame.is_trailers()
            && let Some(rest) = filter.finish()
        {
            self.trailers = Some(frame);
            return Some(Frame::data(rest));
        }
        let frame = frame.map_data(|data| filter.feed(data));
        frame.data_ref().is_none_or(|data| !data.is_empty()).then_some(frame)
    }

    /// What was not sent when the endpoint's body ended.
    fn last_frame(&mut self) -> Option<Frame<Bytes>> {
        let rest = self.usage_filter.as_mut().and_then(|filter| filter.finish());
        rest.map(Frame::data).or_else(|| self.trailers.take())
    }

    fn observe(&mut self, data: &[u8]) {
        self.record.body_bytes(data.len());
        let mut is_first = !self.scanner.is_event_stream();
        if is_first {
            self.record.first_token();
        }
        let record = &mut self.record;
        self.scanner.feed(data, |finding| {
            is_first |= finding == Finding::FirstEvent;
            record.found(finding);
        });
        if is_first && let Some(session) = &mut self.session {
            session.first_byte();
        }
    }

    fn finish(&mut self) {
        self.is_finished = true;
        let record = &mut self.record;
        let mut scanner = std::mem::replace(&mut self.scanner, ResponseScanner::Unreadable);
        scanner.finish(|finding| record.found(finding));
        self.record.complete();
        if let Some(session) = self.session.take() {
            session.finish();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.deadline = None;
            return Poll::Ready(Some(Err(self.abort(Abort::Timeout))));
        }
        if let Some(session) = &mut self.session
            && let Poll::Ready(evicted) = session.poll_evicted(cx)
        {
            return Poll::Ready(Some(Err(self.abort(Abort::Evicted(evicted)))));
        }
        loop {
            let frame = match self.poll_source(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let Some(idle) = &mut self.idle else { return Poll::Pending };
                    ready!(idle.poll_expired(cx));
                    Some(Err(Abort::Idle))
                }
            };
            if let Some(idle) = &mut self.idle {
                idle.reset();
            }
            let frame = match frame {
                None => {
                    let last = self.last_frame();
                    match last {
                        None => self.finish(),
                        Some(_) => self.finish_if_ended(),
                    }
                    return Poll::Ready(last.map(Ok));
                }
                Some(Err(reason)) => return Poll::Ready(Some(Err(self.abort(reason)))),
                Some(Ok(frame)) => self.restored(frame),
            };
            if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
                self.observe(data);
            }
            let frame = frame.and_then(|frame| self.filtered(frame));
            self.finish_if_ended();
            if let Some(frame) = frame {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}

impl ResponseBody {
    /// The client took no data for the write timeout. The body is dropped next, which frees the endpoint.
    pub(crate) fn client_stalled(&mut self) {
        if let Self::Upstream(response) = self
            && !response.is_finished
        {
            // Dropping the session resets the stream to the picker, which then knows that the response was aborted.
            drop(response.session.take());
            response.abort(Abort::ClientStalled);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Abort;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        match self.get_mut() {
            Self::Complete(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Upstream(response) => response.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Complete(body) => body.is_none(),
            Self::Upstream(response) => response.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Complete(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Upstream(response) if response.restore.is_some() || response.usage_filter.is_some() => {
                SizeHint::default()
            }
            Self::Upstream(response) => match response.session.as_ref().and_then(Session::relay) {
                None => response.body.size_hint(),
                Some(relay) => relay.size_hint(&response.body),
            },
        }
    }
}
