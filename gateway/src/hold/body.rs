use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_openai::{BodyError, ModelName, Splicer};
use http::HeaderMap;
use tokio::time::Instant;

use super::client_body::ClientBody;
use super::frames::Frames;
use super::remainder::{ModelScan, Remainder, RestObserver};
use super::upstream::{Loan, LoanState, UpstreamBody};
use super::{Error, Hold, ReadError};

/// Minimum rate at which a body that is held must arrive, after [`GRACE_TIMEOUTS`].
const MIN_BYTES_PER_SECOND: u32 = 8 << 10;
/// Idle timeouts for which a held body may arrive at any rate. Otherwise a few clients that send a byte now and then keep
/// the hold budget for ever.
const GRACE_TIMEOUTS: u32 = 6;

/// Maximum bytes that are held only because a decision is better with them.
const MAX_OPTIONAL_BYTES: u64 = 8 << 20;
/// More than a frame of a connection has.
const MAX_FRAME_BYTES: u64 = 1 << 20;

/// The frames of a request body that have arrived, and the remainder that has not.
#[derive(Debug)]
pub(crate) struct HeldBody {
    frames: Frames,
    model: Option<ModelName>,
    /// Body that the picker wants sent instead, as far as it has arrived.
    replacement: Frames,
    hold: Hold,
    /// Of `hold`, what is held for the decoder of a compressed body.
    decoder_bytes: usize,
    remainder: Option<Remainder>,
    idle_timeout: Duration,
    /// When the first frame of several arrived.
    began: Option<Instant>,
    /// Set while an upstream connection has the remainder.
    loan: Option<Arc<LoanState>>,
}

impl HeldBody {
    /// `idle_timeout`: maximum wait for the client's next bytes. It also applies while an upstream connection reads
    /// the body.
    pub(crate) fn new(
        incoming: ClientBody,
        hold: Hold,
        scan: ModelScan,
        idle_timeout: Duration,
    ) -> Result<Self, Error> {
        let is_empty = incoming.is_end_stream();
        let (scanner, is_strict) = match scan {
            ModelScan::None => (None, false),
            ModelScan::Lenient(scanner) => (Some(scanner), false),
            ModelScan::Strict(_) if is_empty => return Err(BodyError::Empty.into()),
            ModelScan::Strict(scanner) => (Some(scanner), true),
        };
        let remainder = (!is_empty).then(|| Remainder::new(incoming, scanner, is_strict, idle_timeout));
        Ok(Self {
            frames: Frames::default(),
            model: None,
            replacement: Frames::default(),
            hold,
            decoder_bytes: 0,
            remainder,
            idle_timeout,
            began: None,
            loan: None,
        })
    }

    /// Reads and holds one more frame. False at the end of the body. Cancel safe.
    pub(crate) async fn read_frame(&mut self) -> Result<bool, Error> {
        Ok(self.read_data().await?.is_some())
    }

    /// Reads and holds all of the body. Cancel safe.
    pub(crate) async fn read_all(&mut self) -> Result<(), Error> {
        while self.read_frame().await? {}
        Ok(())
    }

    /// Like [`HeldBody::read_frame`]. Returns the data, `None` at the end of the body.
    pub(crate) async fn read_data(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(remainder) = &mut self.remainder else { return Ok(None) };
        let data = poll_fn(|cx| remainder.poll_data(cx)).await.transpose()?;
        if self.model.is_none() {
            self.model = remainder.model().cloned();
        }
        // The window was allocated by the read above, so one request per thread can exceed the budget by one window.
        let decoder_bytes = remainder.decoder_bytes();
        self.hold.grow(decoder_bytes.saturating_sub(self.decoder_bytes))?;
        self.decoder_bytes = self.decoder_bytes.max(decoder_bytes);
        if data.is_none() || remainder.is_end_stream() {
            self.remainder = None;
        }
        let Some(data) = data else { return Ok(None) };
        self.hold.grow(data.len())?;
        if self.remainder.is_some() {
            self.check_rate()?;
        }
        self.frames.push(data.clone());
        Ok(Some(data))
    }

    /// Maximum size of the whole body. `None` if unknown.
    pub(crate) fn max_bytes(&self) -> Option<u64> {
        let left = self.remainder.as_ref().map_or(Some(0), Remainder::max_incoming_bytes);
        let held = self.frames.iter().map(|frame| frame.len() as u64).sum();
        left.map(|left| left.saturating_add(held))
    }

    /// Whether more of the body may be held for a decision that can do without it.
    pub(crate) fn may_hold_more(&self) -> bool {
        self.hold.has_room(MAX_OPTIONAL_BYTES, MAX_FRAME_BYTES)
    }

    /// `observer` sees what has not been read yet.
    pub(crate) fn observe_rest(&mut self, observer: Box<dyn RestObserver>) {
        if let Some(remainder) = &mut self.remainder {
            remainder.observe_with(observer);
        }
    }

    /// Fails if the client sends too slowly for a body that is held.
    fn check_rate(&mut self) -> Result<(), ReadError> {
        let now = Instant::now();
        let waited = now.duration_since(*self.began.get_or_insert(now));
        // The window of a decoder did not arrive.
        let received = self.hold.bytes().saturating_sub(self.decoder_bytes as u64);
        let bytes = u32::try_from(received).unwrap_or(u32::MAX);
        let allowed =
            self.idle_timeout * GRACE_TIMEOUTS + Duration::from_secs(1) * bytes / MIN_BYTES_PER_SECOND;
        if waited > allowed { Err(ReadError::TooSlow { waited }) } else { Ok(()) }
    }

    /// Reads until the model is known, or until it is certain that the body has none.
    pub(crate) async fn read_model(&mut self) -> Result<Option<ModelName>, Error> {
        loop {
            if let Some(model) = &self.model {
                return Ok(Some(model.clone()));
            }
            let is_strict = match &self.remainder {
                Some(remainder) if remainder.is_scanned() => remainder.is_strict(),
                _ => return Ok(None),
            };
            if !self.read_frame().await? && is_strict {
                return Err(BodyError::ModelMissing.into());
            }
        }
    }

    /// Replaces the model in the held frames and in the remainder. Bytes around it are shared, not copied. `headers`
    /// are those of the request.
    pub(crate) fn replace_model(&mut self, headers: &HeaderMap, name: &ModelName) -> Result<(), Error> {
        let mut splicer = Splicer::new(headers, name)?;
        let mut frames = Vec::with_capacity(self.frames.len() + 2);
        for frame in self.frames.iter() {
            splicer.feed(frame, |piece| frames.push(piece))?;
        }
        let bytes = |frames: &[Bytes]| frames.iter().map(Bytes::len).sum::<usize>();
        self.hold.grow(bytes(&frames).saturating_sub(bytes(&self.frames)))?;
        self.frames = frames.into_iter().collect();
        if let Some(remainder) = &mut self.remainder {
            remainder.rewrite_with(splicer);
        }
        Ok(())
    }

    /// The held frames in one piece.
    pub(crate) fn contiguous(&self) -> Bytes {
        match self.frames() {
            [frame] => frame.clone(),
            frames => frames.concat().into(),
        }
    }

    /// Replaces the held frames. The whole body is held.
    pub(crate) fn replace(&mut self, pieces: [Bytes; 3]) -> Result<(), Error> {
        let bytes = |frames: &[Bytes]| frames.iter().map(Bytes::len).sum::<usize>();
        self.hold.grow(bytes(&pieces).saturating_sub(bytes(&self.frames)))?;
        self.frames = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Ok(())
    }

    /// The held frames.
    pub(crate) fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// Whether the whole body is held.
    pub(crate) fn is_complete(&self) -> bool {
        self.remainder.is_none()
    }

    /// Adds a piece of the body that the picker wants sent instead.
    pub(crate) fn hold_replacement(&mut self, piece: Bytes) -> Result<(), Error> {
        self.hold.grow(piece.len())?;
        if !piece.is_empty() {
            self.replacement.push(piece);
        }
        Ok(())
    }

    /// Drops an incomplete replacement.
    pub(crate) fn drop_replacement(&mut self) {
        self.replacement.clear();
    }

    /// The replacement is complete and becomes the body.
    pub(crate) fn use_replacement(&mut self) {
        self.frames = mem::take(&mut self.replacement);
        self.remainder = None;
    }

    /// Whether the body can be sent again if a connection breaks: all of it is held, or the remainder is small enough
    /// to be kept while it is sent.
    pub(crate) fn is_replayable(&self) -> bool {
        let Some(remainder) = &self.remainder else { return true };
        remainder.max_incoming_bytes().is_some_and(|bytes| bytes <= self.hold.replay_bytes())
    }

    /// The body for an upstream request. Frames are shared. The remainder is lent until [`HeldBody::reclaim`].
    pub(crate) fn upstream(&mut self) -> UpstreamBody {
        let loan = self.remainder.take().map(|remainder| {
            // A body that is known to be too large is not kept from its first byte.
            let is_kept =
                remainder.max_incoming_bytes().is_none_or(|bytes| bytes <= self.hold.replay_bytes());
            let loan = Loan::new(remainder, self.hold.another(), is_kept);
            self.loan = Some(loan.state());
            loan
        });
        UpstreamBody::new(self.frames.to_vec(), loan)
    }

    /// Whether [`HeldBody::reclaim`] succeeds once the connection is dropped.
    pub(crate) fn is_reclaimable(&self) -> bool {
        self.loan.as_ref().is_none_or(|loan| !loan.is_spent())
    }

    /// Takes the lent remainder back after its connection was dropped. True if the body can be sent again.
    pub(crate) fn reclaim(&mut self) -> bool {
        let Some(loan) = self.loan.take() else { return true };
        let Some(returned) = loan.take() else { return false };
        self.frames.extend(returned.passed.into_vec());
        self.hold.absorb(returned.hold);
        self.remainder = returned.remainder;
        true
    }
}
