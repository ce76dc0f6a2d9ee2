use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};

use super::{Restore, Watch};
use crate::Error;
use crate::forward::{Broken, PooledBody};
use crate::observe::Record;
use crate::patience::Stall;
use crate::pick::{DetourError, Evicted, Session};

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// The gateway's own.
    Whole(Option<Bytes>),
    /// A pod's, passed on frame by frame as it comes.
    Upstream(Box<UpstreamAnswer>),
}

/// A pod's response on its way to the client. Dropped before its end, because the client has left,
/// it takes with it the connection to the pod and the picker's stream.
#[derive(Debug)]
pub(crate) struct UpstreamAnswer {
    body: PooledBody,
    session: Option<Session>,
    /// The client has all that it gets; of the pod's body there may be more.
    is_over: bool,
    record: Box<Record>,
    restore: Option<Box<Restore>>,
    watch: Watch,
    /// Of streams.
    idle: Option<Stall>,
    /// When the route's time for the request is over.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// What comes with a pod's response.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) session: Option<Session>,
    pub(crate) restore: Option<Box<Restore>>,
    /// After this the response is broken off.
    pub(crate) deadline: Option<Instant>,
}

/// Why a response ended before it was whole. The client sees its stream reset.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    #[error(transparent)]
    Upstream(Broken),
    #[error("the time that the route allows is over")]
    Timeout,
    #[error("the model server has said nothing for too long")]
    Idle,
    #[error(transparent)]
    Evicted(Evicted),
    #[error("the endpoint picker did not give back all of it")]
    Picker,
}

impl AnswerBody {
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Whole((!body.is_empty()).then_some(body))
    }

    pub(crate) fn upstream(
        body: PooledBody,
        pod: Pod,
        record: Box<Record>,
        watch: Watch,
        idle: Duration,
    ) -> Self {
        let Pod { session, restore, deadline } = pod;
        let idle = matches!(watch, Watch::Events(_)).then(|| Stall::new(idle));
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline.into())));
        let mut answer =
            UpstreamAnswer { body, session, is_over: false, record, restore, watch, idle, deadline };
        answer.finish_if_ended();
        Self::Upstream(Box::new(answer))
    }
}

impl UpstreamAnswer {
    /// The next frame, from the pod or from the picker that has it on its way.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.session.as_mut().and_then(Session::detour_mut) {
            _ if self.is_over => Poll::Ready(None),
            None => Pin::new(&mut self.body).poll_frame(cx).map_err(BrokenOff::Upstream),
            Some(detour) => detour.poll_frame(cx, &mut self.body).map_err(|error| match error {
                DetourError::Pod(error) => BrokenOff::Upstream(error),
                DetourError::Evicted(evicted) => BrokenOff::Evicted(evicted),
                DetourError::Lost => BrokenOff::Picker,
            }),
        }
    }

    fn is_ended(&self) -> bool {
        match self.session.as_ref().and_then(Session::detour) {
            _ if self.is_over => true,
            None => self.body.is_end_stream(),
            Some(detour) => detour.is_ended(&self.body),
        }
    }

    /// Ends the response before it is whole.
    fn break_off(&mut self, why: BrokenOff) -> BrokenOff {
        let (status, code) = match &why {
            BrokenOff::Upstream(Broken::Rest(of_client)) => {
                let error = Error::from(*of_client);
                (error.status(), error.code())
            }
            BrokenOff::Upstream(_) => (StatusCode::BAD_GATEWAY, "upstream_reset"),
            BrokenOff::Timeout => (StatusCode::GATEWAY_TIMEOUT, "request_timeout"),
            BrokenOff::Idle => (StatusCode::GATEWAY_TIMEOUT, "upstream_idle"),
            BrokenOff::Evicted(Evicted(status)) => (*status, "evicted"),
            BrokenOff::Picker => (StatusCode::BAD_GATEWAY, "picker_response_lost"),
        };
        tracing::info!(%why, "a response is broken off");
        self.record.answering(status);
        self.record.failed(code);
        self.finish();
        why
    }

    fn finish_if_ended(&mut self) {
        if self.is_ended() {
            self.finish();
        }
    }

    /// As the client is to get it; nothing if nothing is left of it.
    fn restored(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(restore) = &mut self.restore else { return Some(frame) };
        let frame = frame.map_data(|data| restore.feed(data));
        frame.data_ref().is_none_or(|data| !data.is_empty()).then_some(frame)
    }

    fn passed(&mut self, data: &[u8]) {
        self.record.body_bytes(data.len());
        if !matches!(self.watch, Watch::Events(_)) {
            self.record.first_token();
        }
        let record = &mut self.record;
        self.watch.feed(data, |seen| record.seen(seen));
    }

    fn finish(&mut self) {
        self.is_over = true;
        let record = &mut self.record;
        std::mem::replace(&mut self.watch, Watch::Nothing).finish(|seen| record.seen(seen));
        self.record.whole();
        if let Some(session) = self.session.take() {
            session.finish();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let answer = match self.get_mut() {
            Self::Whole(body) => return Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Upstream(answer) => answer,
        };
        if let Some(deadline) = &mut answer.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            answer.deadline = None;
            return Poll::Ready(Some(Err(answer.break_off(BrokenOff::Timeout))));
        }
        if let Some(session) = &mut answer.session
            && let Poll::Ready(evicted) = session.poll_evicted(cx)
        {
            return Poll::Ready(Some(Err(answer.break_off(BrokenOff::Evicted(evicted)))));
        }
        loop {
            let frame = match answer.poll_source(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let Some(idle) = &mut answer.idle else { return Poll::Pending };
                    ready!(idle.poll_over(cx));
                    Some(Err(BrokenOff::Idle))
                }
            };
            if let Some(idle) = &mut answer.idle {
                idle.heard();
            }
            let frame = match frame {
                None => {
                    answer.finish();
                    return Poll::Ready(None);
                }
                Some(Err(why)) => return Poll::Ready(Some(Err(answer.break_off(why)))),
                Some(Ok(frame)) => answer.restored(frame),
            };
            if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
                answer.passed(data);
            }
            answer.finish_if_ended();
            if let Some(frame) = frame {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_none(),
            Self::Upstream(answer) => answer.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Upstream(answer) if answer.restore.is_some() => SizeHint::default(),
            Self::Upstream(answer) => match answer.session.as_ref().and_then(Session::detour) {
                None => answer.body.size_hint(),
                Some(detour) => detour.size_hint(&answer.body),
            },
        }
    }
}
