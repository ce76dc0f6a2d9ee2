//! hyper's client on a connection that exists in memory only.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use forebay_gateway::fuzzing::Response;
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};

/// Polls after which the client is stuck. It needs a few per piece of the body.
const MAX_POLLS: usize = 1 << 20;

/// Sends a request and reads the response from `bytes`, which the end of the connection follows. `None` if hyper refuses it.
pub(crate) fn read_response(bytes: &[u8], is_head: bool) -> Option<Response> {
    let connection = Connection { input: BytesMut::from(bytes), has_request: false };
    let cx = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(Ok((mut sender, mut driver))) = pin!(http1::handshake(connection)).poll(cx) else {
        panic!("the handshake waits");
    };
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = if is_head { Method::HEAD } else { Method::GET };
    let mut response = pin!(sender.send_request(request));
    let mut drive = || drop(Pin::new(&mut driver).poll(&mut Context::from_waker(Waker::noop())));
    let response = finish(&mut drive, |cx| response.as_mut().poll(cx)).ok()?;
    let (head, mut body) = response.into_parts();
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = finish(&mut drive, |cx| Pin::new(&mut body).poll_frame(cx)) {
        match frame.ok()?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Some(Response { head, body: data, trailers, is_reusable: true })
}

fn finish<T>(drive: &mut impl FnMut(), mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    for _ in 0..MAX_POLLS {
        if let Poll::Ready(result) = poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
        drive();
    }
    panic!("hyper does not finish");
}

struct Connection {
    input: BytesMut,
    /// The request was written. Bytes before it would not be a response.
    has_request: bool,
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_request {
            return Poll::Pending;
        }
        let length = buffer.remaining().min(self.input.len());
        buffer.put_slice(&self.input.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl Write for Connection {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.has_request = true;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
