use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::activity::InFlight;
use super::unsent::Unsent;
use crate::runtime::StreamState;

/// Maximum size of a frame of an HTTP/2 response. A frame waits for window as a whole.
const MAX_FRAME_BYTES: usize = 16 << 10;
/// Maximum size of the last frame of an HTTP/2 response.
///
/// hyper hands the last frame to h2 once there is one byte of window for it. If the client gives no more window, the
/// frame stays buffered and has no timeout of its own, so it must be small. Each frame may be the last.
const MAX_LAST_FRAME_BYTES: usize = 1 << 10;

/// A body that is told when its client takes no data.
pub(crate) trait ClientResponse: Body<Data = Bytes> {
    /// The client took no data for the write timeout. The body is dropped next.
    fn client_stalled(&mut self);
}

/// The body of a response on its way to a client.
#[derive(Debug)]
pub(super) struct ClientResponseBody<B: ClientResponse + Unpin> {
    body: B,
    in_flight: InFlight,
    http2: Option<Http2>,
}

/// What a response on an HTTP/2 stream needs.
#[derive(Debug)]
pub(super) struct Http2 {
    stream: Arc<StreamState>,
    unsent: Arc<Unsent>,
    /// The part of a frame that was not returned yet, without its tail.
    rest: Bytes,
    /// The end of the frame. A copy, so that it does not keep the whole frame in memory.
    tail: Bytes,
}

impl Http2 {
    pub(super) fn new(stream: Arc<StreamState>, unsent: Arc<Unsent>) -> Self {
        Self { stream, unsent, rest: Bytes::new(), tail: Bytes::new() }
    }

    /// Takes a frame of the body.
    fn split(&mut self, mut data: Bytes) {
        if data.len() > MAX_LAST_FRAME_BYTES {
            let tail = data.split_off(data.len() - MAX_LAST_FRAME_BYTES);
            self.tail = self.unsent.count(Bytes::copy_from_slice(&tail));
        }
        self.rest = self.unsent.count(data);
    }

    /// The next part of the frame.
    fn part(&mut self) -> Bytes {
        self.stream.returned();
        if self.rest.is_empty() {
            return std::mem::take(&mut self.tail);
        }
        let part = self.rest.split_to(self.rest.len().min(MAX_FRAME_BYTES));
        if self.rest.is_empty() {
            // An empty part would keep the whole frame in memory.
            self.rest = Bytes::new();
        }
        part
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.tail.is_empty()
    }
}

impl<B: ClientResponse + Unpin> ClientResponseBody<B> {
    /// `http2`: `None` for HTTP/1.
    pub(super) fn new(body: B, in_flight: InFlight, http2: Option<Http2>) -> Self {
        Self { body, in_flight, http2 }
    }
}

impl<B: ClientResponse + Unpin> Body for ClientResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { body, http2, .. } = &mut *self;
        let Some(http2) = http2 else { return Pin::new(body).poll_frame(cx) };
        http2.stream.polled();
        if http2.is_empty() {
            if http2.unsent.poll_room(cx).is_pending() {
                // Like a frame that waits: the timeout counts until data of the connection was written.
                http2.stream.returned();
                return Poll::Pending;
            }
            let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(data) => http2.split(data),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(http2.part()))))
    }

    fn is_end_stream(&self) -> bool {
        self.http2.as_ref().is_none_or(Http2::is_empty) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Only asked before the first frame.
        self.body.size_hint()
    }
}

impl<B: ClientResponse + Unpin> Drop for ClientResponseBody<B> {
    fn drop(&mut self) {
        let is_stalled = self.in_flight.activity().is_stalled()
            || self.http2.as_ref().is_some_and(|http2| http2.stream.is_stalled());
        if is_stalled {
            self.body.client_stalled();
        }
    }
}
