use bytes::{Buf as _, Bytes};
use http::{StatusCode, response};
use memchr::memmem;

use super::decode::{Decoded, Decoder};
use super::head::{Head, decode};
use crate::forward::error::ExchangeError;

/// Maximum size of a response head.
const MAX_HEAD_BYTES: usize = 256 << 10;

/// Reads responses from the bytes of a connection, which may be split anywhere.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The start of an incomplete head.
    partial: Vec<u8>,
    /// Bytes that were received and not decoded yet.
    input: Bytes,
    /// Decoder of the current body.
    body: Decoder,
    keeps_alive: bool,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { partial: Vec::new(), input: Bytes::new(), body: Decoder::empty(), keeps_alive: true }
    }
}

impl Incoming {
    /// Adds received bytes. Call it only when [`Incoming::head`] or [`Incoming::frame`] needs more.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.input.is_empty(), "the last bytes are not decoded");
        if self.partial.is_empty() {
            self.input = bytes;
        } else {
            self.extend_partial(&bytes);
        }
    }

    /// The next head that is not informational. `None` if more bytes are needed. `is_head`: the request was a HEAD request.
    pub(crate) fn head(&mut self, is_head: bool) -> Result<Option<response::Parts>, ExchangeError> {
        while !self.input.is_empty() {
            let Some(Head { parts, body, keeps_alive, bytes }) = decode(&self.input, is_head)? else {
                self.keep_partial()?;
                break;
            };
            self.input.advance(bytes);
            if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(ExchangeError::Malformed("it switches protocols without an upgrade request"));
            }
            if !parts.status.is_informational() {
                self.body = body;
                self.keeps_alive = keeps_alive;
                return Ok(Some(parts));
            }
        }
        Ok(None)
    }

    /// The next part of the body.
    pub(crate) fn frame(&mut self) -> Result<Decoded, ExchangeError> {
        self.body.next(&mut self.input)
    }

    /// The connection was closed. Fails if that does not end the body.
    pub(crate) fn closed(&mut self) -> Result<(), ExchangeError> {
        self.body.closed()
    }

    /// Bytes of the body that are left, if known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    /// The body has been returned completely.
    pub(crate) fn is_ended(&self) -> bool {
        self.body.is_ended()
    }

    /// Whether another response may follow: the last one is complete, no other bytes have arrived, and the server keeps the
    /// connection.
    pub(crate) fn is_reusable(&self) -> bool {
        self.body.is_ended() && self.keeps_alive && self.input.is_empty()
    }

    /// Keeps the start of an incomplete head.
    fn keep_partial(&mut self) -> Result<(), ExchangeError> {
        if self.input.len() > MAX_HEAD_BYTES {
            return Err(ExchangeError::Malformed("its head is too large"));
        }
        self.partial.extend_from_slice(&std::mem::take(&mut self.input));
        Ok(())
    }

    /// Appends new bytes to an incomplete head. It is parsed again only when its end may have arrived.
    fn extend_partial(&mut self, bytes: &[u8]) {
        let from = self.partial.len().saturating_sub(3);
        self.partial.extend_from_slice(bytes);
        let new = &self.partial[from..];
        let may_end = memmem::find(new, b"\n\r\n").is_some() || memmem::find(new, b"\n\n").is_some();
        if may_end || self.partial.len() > MAX_HEAD_BYTES {
            self.input = std::mem::take(&mut self.partial).into();
        }
    }
}
