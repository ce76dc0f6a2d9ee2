use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use prost::Message;

use super::frame;

/// Where messages go, one at a time: the next when all of the last is handed over. So no more waits here than one,
/// however slow the other side reads.
#[derive(Debug)]
pub struct Outbox {
    stream: SendStream<Bytes>,
    pending: Bytes,
    ends: bool,
    /// The other side takes no more.
    is_closed: bool,
}

impl Outbox {
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, pending: Bytes::new(), ends: false, is_closed: false }
    }

    /// Ready when a message can be sent; false if no more are taken.
    pub fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.pending.is_empty() && !self.is_closed {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => self.hand_over(),
                Some(Err(_)) | None => self.is_closed = true,
            }
        }
        Poll::Ready(!self.is_closed && !self.ends)
    }

    /// See [`Outbox::poll_free`].
    pub async fn free(&mut self) -> bool {
        poll_fn(|cx| self.poll_free(cx)).await
    }

    /// Whether a message can be sent now.
    pub fn is_free(&self) -> bool {
        self.pending.is_empty() && !self.is_closed && !self.ends
    }

    /// Whether some of the last message is still to be handed over.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty() && !self.is_closed
    }

    /// Sends a message; one that is not taken any more is dropped. To be called when it is free.
    pub fn send(&mut self, message: &impl Message) {
        debug_assert!(self.pending.is_empty(), "the message before is not handed over");
        if self.is_closed || self.ends {
            return;
        }
        self.pending = frame(message);
        self.hand_over();
    }

    /// No more messages come. What is not handed over is, as far as the other side takes it.
    pub fn end(&mut self) {
        if self.ends || self.is_closed {
            return;
        }
        self.ends = true;
        if self.pending.is_empty() {
            self.is_closed = self.stream.send_data(Bytes::new(), true).is_err();
        }
    }

    /// Ends with trailers. To be called when it is free.
    pub fn end_with(&mut self, trailers: HeaderMap) {
        self.ends = true;
        self.is_closed = self.stream.send_trailers(trailers).is_err();
    }

    fn hand_over(&mut self) {
        while !self.pending.is_empty() {
            self.stream.reserve_capacity(self.pending.len());
            let bytes = self.stream.capacity().min(self.pending.len());
            if bytes == 0 {
                return;
            }
            let piece = self.pending.split_to(bytes);
            let is_last = self.ends && self.pending.is_empty();
            if self.stream.send_data(piece, is_last).is_err() {
                self.is_closed = true;
                self.pending = Bytes::new();
            }
        }
    }
}
