use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use forebay_openai::{BodyError, BodyScanner, ModelName, Splicer};
use http_body::SizeHint;

use super::ReadError;
use super::client_body::ClientBody;
use super::size_hint::add_frames;
use crate::runtime::IdleTimeout;

/// Whether a body is scanned for a model, and whether it must contain one.
#[derive(Debug)]
pub(crate) enum ModelScan {
    None,
    /// A body without a model is accepted. A body with two different models is not.
    Lenient(BodyScanner),
    /// The body must contain a model.
    Strict(BodyScanner),
}

/// Sees the data of a body while it is read.
pub(crate) trait RestObserver: fmt::Debug + Send {
    fn data(&mut self, data: &Bytes);
    /// The body is complete.
    fn end(self: Box<Self>);
}

/// The part of a client's body that has not been read. It is scanned while it is read.
#[derive(Debug)]
pub(super) struct Remainder {
    incoming: ClientBody,
    /// `None` if the body is not scanned, or no longer.
    scanner: Option<BodyScanner>,
    is_strict: bool,
    /// Replaces the scanner when the model is rewritten.
    splice: Option<Box<Splice>>,
    observer: Option<Box<dyn RestObserver>>,
    idle: IdleTimeout,
}

/// Rewrites the model. One frame becomes several pieces.
#[derive(Debug)]
struct Splice {
    splicer: Splicer,
    /// Pieces of the last frame that were not returned yet.
    pieces: VecDeque<Bytes>,
}

impl Remainder {
    pub(super) fn new(
        incoming: ClientBody,
        scanner: Option<BodyScanner>,
        is_strict: bool,
        idle_timeout: Duration,
    ) -> Self {
        let idle = IdleTimeout::new(idle_timeout);
        Self { incoming, scanner, is_strict, splice: None, observer: None, idle }
    }

    /// The next bytes, never empty. The last frame is returned only after the scan of the whole body has passed.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        loop {
            if let Some(splice) = &mut self.splice
                && let Some(piece) = splice.pieces.pop_front()
            {
                return Poll::Ready(Some(Ok(piece)));
            }
            let Poll::Ready(frame) = self.incoming.poll_frame(cx) else {
                let waited = ready!(self.idle.poll_expired(cx));
                return Poll::Ready(Some(Err(ReadError::Stalled { waited })));
            };
            self.idle.reset();
            let Some(frame) = frame else {
                return Poll::Ready(self.finish().err().map(Err));
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) if error.is_incomplete_message() || error.is_canceled() => {
                    return Poll::Ready(Some(Err(ReadError::ClientGone)));
                }
                Err(_) => return Poll::Ready(Some(Err(ReadError::Broken))),
            };
            // Engines do not read trailers of requests.
            let Ok(data) = frame.into_data() else { continue };
            if data.is_empty() {
                continue;
            }
            if let Err(error) = self.scan(&data) {
                return Poll::Ready(Some(Err(error)));
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

    /// Feeds `data` to the observer, and to the splicer or the scanner.
    fn scan(&mut self, data: &Bytes) -> Result<(), ReadError> {
        if let Some(observer) = &mut self.observer {
            observer.data(data);
        }
        if let Some(Splice { splicer, pieces }) = self.splice.as_deref_mut()
            && let Err(error) = splicer.feed(data, |piece| pieces.push_back(piece))
        {
            pieces.clear();
            return Err(error.into());
        }
        if let Some(scanner) = &mut self.scanner
            && let Err(error) = scanner.feed(data)
        {
            if self.is_strict || error == BodyError::ModelConflict {
                return Err(error.into());
            }
            self.scanner = None;
        }
        Ok(())
    }

    /// From now on `splicer` rewrites the model.
    pub(super) fn rewrite_with(&mut self, mut splicer: Splicer) {
        if self.incoming.size_hint().exact().is_some() {
            splicer.keep_length();
        }
        self.scanner = None;
        self.splice = Some(Box::new(Splice { splicer, pieces: VecDeque::new() }));
    }

    /// From now on `observer` sees the data.
    pub(super) fn observe_with(&mut self, observer: Box<dyn RestObserver>) {
        self.observer = Some(observer);
    }

    /// The model found so far.
    pub(super) fn model(&self) -> Option<&ModelName> {
        self.scanner.as_ref().and_then(BodyScanner::model)
    }

    /// Memory of the decoder of a compressed body.
    pub(super) fn decoder_bytes(&self) -> usize {
        self.scanner.as_ref().map_or(0, BodyScanner::decoder_bytes)
    }

    pub(super) fn is_scanned(&self) -> bool {
        self.scanner.is_some()
    }

    pub(super) fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// Maximum size of what the client still sends, before any rewrite. `None` if unknown.
    pub(super) fn max_incoming_bytes(&self) -> Option<u64> {
        self.incoming.size_hint().upper()
    }

    /// All of it has been returned.
    pub(super) fn is_end_stream(&self) -> bool {
        self.splice.as_ref().is_none_or(|splice| splice.pieces.is_empty()) && self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.size_hint();
        let Some(splice) = &self.splice else { return hint };
        add_frames(&hint, splice.pieces.iter())
    }

    fn finish(&mut self) -> Result<(), ReadError> {
        if let Some(observer) = self.observer.take() {
            observer.end();
        }
        if let Some(splice) = &self.splice {
            return Ok(splice.splicer.finish()?);
        }
        let scanner = self.scanner.as_mut().filter(|_| self.is_strict);
        scanner.map_or(Ok(()), |scanner| Ok(scanner.finish()?))
    }
}
