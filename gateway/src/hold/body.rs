use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Hold;
use crate::Error;
use crate::accept::poll_piece;
use crate::patience::Stall;
use forebay_openai::{BodyError, BodyScanner, ModelName, Splicer};

/// Why the rest of a client's body cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the client's body broke off")]
    Broken,
    #[error("the client went away")]
    ClientGone,
    #[error("the client sent nothing more")]
    Stalled { waited: Duration },
}

impl From<RestError> for Error {
    fn from(error: RestError) -> Self {
        match error {
            RestError::Body(error) => Self::Body(error),
            RestError::Broken => Self::BodyBroken,
            RestError::ClientGone => Self::ClientGone,
            RestError::Stalled { waited } => Self::BodyTimeout { waited },
        }
    }
}

/// What a body is looked at for.
#[derive(Debug)]
pub(crate) enum Scan {
    Nothing,
    /// A body that says nothing about a model is taken too; one that names two is not.
    Lenient(BodyScanner),
    /// There must be a model.
    Strict(BodyScanner),
}

/// What has not come yet of a client's body, watched by the scanner as it comes.
#[derive(Debug)]
struct Rest {
    incoming: Incoming,
    /// Nothing as soon as, or as long as, the body is not looked at.
    scanner: Option<BodyScanner>,
    is_strict: bool,
    /// In place of the scanner, where the model is replaced.
    splice: Option<Box<Splice>>,
    stall: Stall,
}

/// What has come is given out in more pieces than it came in.
#[derive(Debug)]
struct Splice {
    splicer: Splicer,
    /// Of the last frame.
    pieces: VecDeque<Bytes>,
}

impl Rest {
    /// The next bytes, never empty; the frame that ends the body is given out
    /// only after the scan of the whole body has passed.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RestError>>> {
        loop {
            if let Some(splice) = &mut self.splice
                && let Some(piece) = splice.pieces.pop_front()
            {
                return Poll::Ready(Some(Ok(piece)));
            }
            let Poll::Ready(frame) = poll_piece(&mut self.incoming, cx) else {
                let waited = ready!(self.stall.poll_over(cx));
                return Poll::Ready(Some(Err(RestError::Stalled { waited })));
            };
            self.stall.heard();
            let Some(frame) = frame else {
                return Poll::Ready(self.finish().err().map(Err));
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) if error.is_incomplete_message() || error.is_canceled() => {
                    return Poll::Ready(Some(Err(RestError::ClientGone)));
                }
                Err(_) => return Poll::Ready(Some(Err(RestError::Broken))),
            };
            // Trailers of a request mean nothing to an engine.
            let Ok(data) = frame.into_data() else { continue };
            if data.is_empty() {
                continue;
            }
            if let Some(Splice { splicer, pieces }) = self.splice.as_deref_mut()
                && let Err(error) = splicer.feed(&data, |piece| pieces.push_back(piece))
            {
                pieces.clear();
                return Poll::Ready(Some(Err(error.into())));
            }
            if let Some(scanner) = &mut self.scanner
                && let Err(error) = scanner.feed(&data)
            {
                if self.is_strict || error == BodyError::ModelConflict {
                    return Poll::Ready(Some(Err(error.into())));
                }
                self.scanner = None;
            }
            if self.incoming.is_end_stream()
                && let Err(error) = self.finish()
            {
                self.splice = None;
                return Poll::Ready(Some(Err(error)));
            }
            if self.splice.is_none() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    /// All of it has been given out.
    fn is_end_stream(&self) -> bool {
        self.splice.as_ref().is_none_or(|splice| splice.pieces.is_empty()) && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.size_hint();
        let Some(splice) = &self.splice else { return hint };
        plus(&hint, splice.pieces.iter())
    }

    fn finish(&self) -> Result<(), RestError> {
        if let Some(splice) = &self.splice {
            return Ok(splice.splicer.finish()?);
        }
        let scanner = self.scanner.as_ref().filter(|_| self.is_strict);
        scanner.map_or(Ok(()), |scanner| Ok(scanner.finish()?))
    }
}

/// The frames of a request body that have come, and the rest that has not.
#[derive(Debug)]
pub(crate) struct HeldBody {
    frames: Vec<Bytes>,
    model: Option<ModelName>,
    /// What the picker wants sent in place of the body.
    replacement: Vec<Bytes>,
    hold: Hold,
    rest: Option<Rest>,
    /// While a connection has the rest.
    lent: Option<Arc<Slot>>,
}

impl HeldBody {
    /// `patience`: the longest wait for the client's next bytes, by whoever it is that waits.
    pub(crate) fn new(incoming: Incoming, hold: Hold, scan: Scan, patience: Duration) -> Result<Self, Error> {
        let ended = incoming.is_end_stream();
        let (scanner, is_strict) = match scan {
            Scan::Nothing => (None, false),
            Scan::Lenient(scanner) => (Some(scanner), false),
            Scan::Strict(_) if ended => return Err(BodyError::Empty.into()),
            Scan::Strict(scanner) => (Some(scanner), true),
        };
        if scanner.is_some() {
            hold.check_announced(incoming.size_hint().lower())?;
        }
        let stall = Stall::new(patience);
        let rest = (!ended).then_some(Rest { incoming, scanner, is_strict, splice: None, stall });
        Ok(Self { frames: Vec::new(), model: None, replacement: Vec::new(), hold, rest, lent: None })
    }

    /// Reads one more frame and holds it; false at the end of the body. Nothing is lost if the future is dropped.
    pub(crate) async fn read_frame(&mut self) -> Result<bool, Error> {
        let Some(rest) = &mut self.rest else { return Ok(false) };
        let data = poll_fn(|cx| rest.poll_data(cx)).await.transpose()?;
        if self.model.is_none() {
            self.model = rest.scanner.as_ref().and_then(BodyScanner::model).cloned();
        }
        if data.is_none() || rest.is_end_stream() {
            self.rest = None;
        }
        let Some(data) = data else { return Ok(false) };
        self.hold.grow(data.len())?;
        self.frames.push(data);
        Ok(true)
    }

    /// Reads until the model is known, or is known not to be there, and no further.
    pub(crate) async fn read_model(&mut self) -> Result<Option<ModelName>, Error> {
        loop {
            if let Some(model) = &self.model {
                return Ok(Some(model.clone()));
            }
            let is_strict = match &self.rest {
                Some(rest) if rest.scanner.is_none() => return Ok(None),
                Some(rest) => rest.is_strict,
                None => return Ok(None),
            };
            if !self.read_frame().await? && is_strict {
                return Err(BodyError::ModelMissing.into());
            }
        }
    }

    /// Puts `name` in place of the model, in what has come and in what is still to come. The frames around it
    /// stay what they were. `headers`: those that the body came with.
    pub(crate) fn replace_model(&mut self, headers: &HeaderMap, name: &ModelName) -> Result<(), Error> {
        let mut splicer = Splicer::new(headers, name)?;
        let mut frames = Vec::with_capacity(self.frames.len() + 2);
        for frame in &self.frames {
            splicer.feed(frame, |piece| frames.push(piece))?;
        }
        let bytes = |frames: &[Bytes]| frames.iter().map(Bytes::len).sum::<usize>();
        self.hold.grow(bytes(&frames).saturating_sub(bytes(&self.frames)))?;
        self.frames = frames;
        if let Some(rest) = &mut self.rest {
            if rest.incoming.size_hint().exact().is_some() {
                splicer.keep_length();
            }
            rest.scanner = None;
            rest.splice = Some(Box::new(Splice { splicer, pieces: VecDeque::new() }));
        }
        Ok(())
    }

    pub(crate) fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// Whether all of the body has come: only then can it be sent more than once.
    pub(crate) fn is_complete(&self) -> bool {
        self.rest.is_none()
    }

    /// Takes one more piece of the body that the picker wants sent instead.
    pub(crate) fn hold_replacement(&mut self, piece: Bytes) -> Result<(), Error> {
        self.hold.grow(piece.len())?;
        if !piece.is_empty() {
            self.replacement.push(piece);
        }
        Ok(())
    }

    /// What came of a replacement is not whole and will not be.
    pub(crate) fn drop_replacement(&mut self) {
        self.replacement.clear();
    }

    /// The replacement is whole: from now on it is the body.
    pub(crate) fn use_replacement(&mut self) {
        self.frames = mem::take(&mut self.replacement);
        self.rest = None;
    }

    /// Whether it could be sent once more after a connection broke: all of it is held, or what is still to come
    /// will be.
    pub(crate) fn is_replayable(&self) -> bool {
        let Some(rest) = &self.rest else { return true };
        let upper = rest.incoming.size_hint().upper();
        upper.is_some_and(|upper| upper <= self.hold.replay_bytes())
    }

    /// The body as it is sent to a model server. The frames are shared; the rest is lent until
    /// [`HeldBody::reclaim`].
    pub(crate) fn upstream(&mut self) -> UpstreamBody {
        let lent = self.rest.take().map(|rest| {
            // Of a body that is known to be too large, nothing is kept from the first byte on.
            let upper = rest.incoming.size_hint().upper();
            let is_kept = upper.is_none_or(|upper| upper <= self.hold.replay_bytes());
            let slot = Arc::new(Slot::default());
            slot.lock().is_spent = !is_kept;
            self.lent = Some(slot.clone());
            let passed = is_kept.then(Vec::new);
            Lent { rest: Some(rest), passed, hold: self.hold.another(), slot, fate: Fate::default() }
        });
        UpstreamBody { frames: self.frames.clone().into_iter(), lent }
    }

    /// Whether [`HeldBody::reclaim`] would succeed as soon as the connection is gone.
    pub(crate) fn is_reclaimable(&self) -> bool {
        self.lent.as_ref().is_none_or(|slot| !slot.lock().is_spent)
    }

    /// Takes back what was lent, after the connection that had it is gone: true if the body can be sent again.
    pub(crate) fn reclaim(&mut self) -> bool {
        let Some(slot) = self.lent.take() else { return true };
        let Some(back) = slot.lock().back.take() else { return false };
        self.frames.extend(back.passed);
        self.hold.absorb(back.hold);
        self.rest = back.rest;
        true
    }
}

/// What becomes of a body that somebody else sends; of one that is all there, nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate(Option<Arc<OnceLock<RestError>>>);

impl Fate {
    /// Why it could not be sent to its end, if that was the client's doing.
    pub(crate) fn failure(&self) -> Option<RestError> {
        self.0.as_ref().and_then(|failure| failure.get().copied())
    }
}

/// Where a lent rest comes back to.
#[derive(Debug, Default)]
struct Slot(Mutex<Returned>);

#[derive(Debug, Default)]
struct Returned {
    /// Some of what passed was not kept.
    is_spent: bool,
    back: Option<Back>,
}

#[derive(Debug)]
struct Back {
    passed: Vec<Bytes>,
    hold: Hold,
    /// Nothing if all of it has come.
    rest: Option<Rest>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Returned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rest of a body while a connection has it. What passes is kept as long as it is little.
#[derive(Debug)]
struct Lent {
    rest: Option<Rest>,
    passed: Option<Vec<Bytes>>,
    hold: Hold,
    slot: Arc<Slot>,
    /// For whoever asked.
    fate: Fate,
}

impl Lent {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RestError>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let data = ready!(rest.poll_data(cx));
        match &data {
            Some(Ok(data)) => self.keep(data),
            Some(Err(error)) => self.fail(*error),
            None => self.rest = None,
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

    /// A connection of HTTP/2 reports nothing of it.
    fn fail(&mut self, error: RestError) {
        self.spend();
        if let Some(failure) = &self.fate.0 {
            failure.get_or_init(|| error);
        }
    }

    fn spend(&mut self) {
        self.passed = None;
        self.hold = self.hold.another();
        self.slot.lock().is_spent = true;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(passed) = self.passed.take() {
            let empty = self.hold.another();
            let hold = mem::replace(&mut self.hold, empty);
            self.slot.lock().back = Some(Back { passed, hold, rest: self.rest.take() });
        }
    }
}

/// The held frames, then what is still to come.
#[derive(Debug, Default)]
pub(crate) struct UpstreamBody {
    frames: std::vec::IntoIter<Bytes>,
    lent: Option<Lent>,
}

impl UpstreamBody {
    /// A body that is all there.
    pub(crate) fn whole(frames: Vec<Bytes>) -> Self {
        Self { frames: frames.into_iter(), lent: None }
    }

    /// Tells what becomes of it, to who has no more than that.
    pub(crate) fn fate(&mut self) -> Fate {
        let Some(lent) = &mut self.lent else { return Fate::default() };
        lent.fate.0.get_or_insert_default();
        lent.fate.clone()
    }

    /// Whether the next frame is one that is held.
    pub(crate) fn is_held(&self) -> bool {
        !self.frames.as_slice().is_empty()
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = RestError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RestError>>> {
        if let Some(frame) = self.frames.next() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let Some(lent) = &mut self.lent else { return Poll::Ready(None) };
        lent.poll_data(cx).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.as_slice().is_empty() && self.lent.as_ref().is_none_or(|lent| lent.rest.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.lent.as_ref().and_then(|lent| lent.rest.as_ref());
        let rest = rest.map_or(SizeHint::with_exact(0), Rest::size_hint);
        plus(&rest, self.frames.as_slice().iter())
    }
}

fn plus<'a>(hint: &SizeHint, frames: impl Iterator<Item = &'a Bytes>) -> SizeHint {
    let more: u64 = frames.map(|frame| frame.len() as u64).sum();
    let mut sum = SizeHint::new();
    sum.set_lower(hint.lower() + more);
    if let Some(upper) = hint.upper() {
        sum.set_upper(upper + more);
    }
    sum
}
