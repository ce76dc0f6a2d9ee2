use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::frames::Frames;
use super::remainder::Remainder;
use super::size_hint::add_frames;
use super::{Hold, ReadError};

/// How a streamed request body ended. Empty if the body was fully held.
#[derive(Clone, Debug, Default)]
pub(crate) struct UploadOutcome(Option<Arc<OnceLock<ReadError>>>);

impl UploadOutcome {
    /// Why the client's body could not be read to its end.
    pub(crate) fn failure(&self) -> Option<ReadError> {
        self.0.as_ref().and_then(|failure| failure.get().copied())
    }
}

/// State of a [`Loan`] that the lender can see.
#[derive(Debug, Default)]
pub(super) struct LoanState(Mutex<LoanStateInner>);

#[derive(Debug, Default)]
struct LoanStateInner {
    /// Some of the data that was sent was not kept.
    is_spent: bool,
    returned: Option<Returned>,
}

/// What a [`Loan`] gives back when it is dropped.
#[derive(Debug)]
pub(super) struct Returned {
    /// The frames that were sent.
    pub(super) passed: Frames,
    pub(super) hold: Hold,
    /// `None` if the whole body has arrived.
    pub(super) remainder: Option<Remainder>,
}

impl LoanState {
    pub(super) fn is_spent(&self) -> bool {
        self.lock().is_spent
    }

    pub(super) fn take(&self) -> Option<Returned> {
        self.lock().returned.take()
    }

    fn lock(&self) -> MutexGuard<'_, LoanStateInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The remainder of a body while an upstream connection sends it. Frames that pass are kept up to the replay limit.
#[derive(Debug)]
pub(super) struct Loan {
    remainder: Option<Remainder>,
    /// `None` once the body is too large to be kept.
    passed: Option<Frames>,
    hold: Hold,
    state: Arc<LoanState>,
    outcome: UploadOutcome,
}

impl Loan {
    /// `hold`: an empty hold for the frames that are kept.
    pub(super) fn new(remainder: Remainder, hold: Hold, is_kept: bool) -> Self {
        let state = Arc::new(LoanState::default());
        state.lock().is_spent = !is_kept;
        let passed = is_kept.then(Frames::default);
        Self { remainder: Some(remainder), passed, hold, state, outcome: UploadOutcome::default() }
    }

    pub(super) fn state(&self) -> Arc<LoanState> {
        self.state.clone()
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        let Some(remainder) = &mut self.remainder else { return Poll::Ready(None) };
        let data = ready!(remainder.poll_data(cx));
        match &data {
            Some(Ok(data)) => self.keep(data),
            Some(Err(error)) => self.fail(*error),
            None => self.remainder = None,
        }
        Poll::Ready(data)
    }

    fn keep(&mut self, data: &Bytes) {
        let limit = self.hold.replay_bytes();
        let Some(passed) = &mut self.passed else { return };
        if self.hold.bytes() + data.len() as u64 <= limit && self.hold.grow(data.len()).is_ok() {
            passed.push(data.clone());
        } else {
            self.spend();
        }
    }

    fn fail(&mut self, error: ReadError) {
        self.spend();
        if let Some(failure) = &self.outcome.0 {
            failure.get_or_init(|| error);
        }
    }

    fn spend(&mut self) {
        self.passed = None;
        self.hold = self.hold.another();
        self.state.lock().is_spent = true;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(passed) = self.passed.take() {
            let empty = self.hold.another();
            let hold = mem::replace(&mut self.hold, empty);
            let returned = Returned { passed, hold, remainder: self.remainder.take() };
            self.state.lock().returned = Some(returned);
        }
    }
}

/// Request body for an upstream connection: the held frames, then the remainder.
#[derive(Debug, Default)]
pub(crate) struct UpstreamBody {
    frames: std::vec::IntoIter<Bytes>,
    loan: Option<Loan>,
}

impl UpstreamBody {
    pub(super) fn new(frames: Vec<Bytes>, loan: Option<Loan>) -> Self {
        Self { frames: frames.into_iter(), loan }
    }

    /// A body that is completely held.
    pub(crate) fn complete(frames: Vec<Bytes>) -> Self {
        Self::new(frames, None)
    }

    /// Reports how the upload ends. HTTP/2 connections do not report errors of the request body themselves.
    pub(crate) fn outcome(&mut self) -> UploadOutcome {
        let Some(loan) = &mut self.loan else { return UploadOutcome::default() };
        loan.outcome.0.get_or_insert_default();
        loan.outcome.clone()
    }

    /// Whether the next frame is held already.
    pub(crate) fn is_held(&self) -> bool {
        !self.frames.as_slice().is_empty()
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ReadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReadError>>> {
        if let Some(frame) = self.frames.next() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let Some(loan) = &mut self.loan else { return Poll::Ready(None) };
        loan.poll_data(cx).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.as_slice().is_empty() && self.loan.as_ref().is_none_or(|loan| loan.remainder.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let remainder = self.loan.as_ref().and_then(|loan| loan.remainder.as_ref());
        let remainder = remainder.map_or(SizeHint::with_exact(0), Remainder::size_hint);
        add_frames(&remainder, self.frames.as_slice().iter())
    }
}
