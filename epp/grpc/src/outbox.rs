use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use prost::Message;
use tonic::Status;

use crate::prefix::frame;

/// Sends messages on one stream.
///
/// It buffers at most one message: the next one can be sent when HTTP/2 has accepted all bytes of the last one.
#[derive(Debug)]
pub struct Outbox {
    stream: SendStream<Bytes>,
    /// Bytes of the last message that wait for flow control.
    pending: Bytes,
    /// No further message follows.
    has_ended: bool,
    /// The receiver reset the stream, or the end was sent.
    is_closed: bool,
}

impl Outbox {
    /// Sends on `stream`, after its headers were sent.
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, pending: Bytes::new(), has_ended: false, is_closed: false }
    }

    /// Ready with `true` when a message can be sent, with `false` when the stream accepts no more messages.
    pub fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.pending.is_empty() && !self.is_closed {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => self.send_pending(),
                Some(Err(_)) | None => self.is_closed = true,
            }
        }
        Poll::Ready(!self.is_closed && !self.has_ended)
    }

    /// See [`Outbox::poll_free`]. Cancel safe.
    pub async fn free(&mut self) -> bool {
        poll_fn(|cx| self.poll_free(cx)).await
    }

    /// Whether a message can be sent now.
    pub fn is_free(&self) -> bool {
        self.pending.is_empty() && !self.is_closed && !self.has_ended
    }

    /// Whether bytes of the last message wait for flow control.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty() && !self.is_closed
    }

    /// Sends a message. Call it only when the outbox is [free](Outbox::poll_free). The message is dropped if the stream is
    /// closed.
    ///
    /// # Errors
    ///
    /// `RESOURCE_EXHAUSTED` if the encoded message is longer than the length prefix can express (4 GiB). Nothing is sent.
    pub fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        debug_assert!(self.pending.is_empty(), "the last message is still pending");
        if self.is_closed || self.has_ended {
            return Ok(());
        }
        self.pending = frame(message)?;
        self.send_pending();
        Ok(())
    }

    /// Ends the stream after the pending bytes.
    pub fn end(&mut self) {
        if self.has_ended || self.is_closed {
            return;
        }
        self.has_ended = true;
        if self.pending.is_empty() {
            self.is_closed = self.stream.send_data(Bytes::new(), true).is_err();
        }
    }

    /// Ends the stream with trailers. Call it only when the outbox is [free](Outbox::poll_free).
    pub fn end_with(&mut self, trailers: HeaderMap) {
        self.has_ended = true;
        self.is_closed = self.stream.send_trailers(trailers).is_err();
    }

    fn send_pending(&mut self) {
        while !self.pending.is_empty() {
            self.stream.reserve_capacity(self.pending.len());
            let bytes = self.stream.capacity().min(self.pending.len());
            if bytes == 0 {
                return;
            }
            let piece = self.pending.split_to(bytes);
            let is_last = self.has_ended && self.pending.is_empty();
            if self.stream.send_data(piece, is_last).is_err() {
                self.is_closed = true;
                self.pending = Bytes::new();
            }
        }
    }
}
