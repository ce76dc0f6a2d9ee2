use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use http::{Method, StatusCode, request, response};
use http_body::{Frame, SizeHint};
use memchr::memmem;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

use super::decode::{Decoder, Piece};
use super::head::{Head, decode};
use super::outgoing::Outgoing;
use crate::Error;
use crate::forward::Broken;
use crate::hold::UpstreamBody;
use crate::patience::Patience;

/// Largest head of a response.
const MAX_HEAD_BYTES: usize = 256 << 10;
/// Largest piece of a response that is read at once.
const READ_BYTES: usize = 64 << 10;

thread_local! {
    /// Where bytes are read to, before it is known how many they are.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A connection to a model server that is driven by whoever holds it.
///
/// There is no task behind it: while a request uses it, that request's task
/// drives it; dropping it closes the socket at once, which is how an engine
/// learns that the client went away. Idle, it is looked at when it is taken.
#[derive(Debug)]
pub(crate) struct Connection(Box<Inner>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    address: SocketAddr,
    idle_since: Instant,
    /// Of the request, as long as not all of it is written.
    outgoing: Option<Outgoing>,
    /// Why no more of the request is written: the server may have answered all the same.
    write_error: Option<io::Error>,
    /// The beginning of a head.
    partial: Vec<u8>,
    /// Read and not used yet.
    input: Bytes,
    /// Of the response.
    body: Decoder,
    /// Some byte of a response has come.
    has_heard: bool,
    keeps_alive: bool,
    /// The server has closed it.
    is_closed: bool,
    is_head: bool,
    /// With the beginning of a response.
    patience: Patience,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, patience: Duration) -> Result<Self, Error> {
        let stream = connect(address, patience).await?;
        Ok(Self(Box::new(Inner {
            stream,
            address,
            idle_since: Instant::now(),
            outgoing: None,
            write_error: None,
            partial: Vec::new(),
            input: Bytes::new(),
            body: Decoder::empty(),
            has_heard: false,
            keeps_alive: true,
            is_closed: false,
            is_head: false,
            patience: Patience::default(),
        })))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Sends a request and waits for the head of its response until `deadline`. The body is then
    /// [`Connection::poll_frame`]'s.
    pub(crate) async fn send(
        &mut self,
        head: &request::Parts,
        body: UpstreamBody,
        deadline: Instant,
    ) -> Result<response::Parts, Broken> {
        let inner = &mut *self.0;
        inner.is_head = head.method == Method::HEAD;
        inner.has_heard = false;
        inner.outgoing = Some(Outgoing::new(head, body));
        poll_fn(|cx| {
            if let Poll::Ready(head) = inner.poll_head(cx) {
                return Poll::Ready(head);
            }
            inner.patience.poll_over(deadline, cx).map(|()| Err(Broken::Late))
        })
        .await
    }

    /// Whether the server has answered anything to the request.
    pub(crate) fn has_heard(&self) -> bool {
        self.0.has_heard
    }

    /// The next frame of the response's body; what is left of the request is sent meanwhile.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_frame(cx)
    }

    /// All of the response has been given out.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.0.body.is_ended()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.0.body.remaining().map_or_else(SizeHint::new, SizeHint::with_exact)
    }

    /// To be called when the exchange is over.
    pub(crate) fn rest(&mut self) {
        self.0.idle_since = Instant::now();
    }

    pub(crate) fn idle_for(&self) -> Duration {
        self.0.idle_since.elapsed()
    }

    /// Whether another request can be sent: the server has not closed it and
    /// the request before has been sent and answered to its end.
    pub(crate) fn is_usable(&self) -> bool {
        let inner = &*self.0;
        let is_over = inner.body.is_ended() && inner.outgoing.is_none() && inner.write_error.is_none();
        is_over && inner.keeps_alive && !inner.is_closed && inner.input.is_empty() && inner.is_silent()
    }
}

impl Inner {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, Broken>> {
        self.poll_send(cx)?;
        loop {
            while !self.input.is_empty() {
                let Some(Head { parts, body, keeps_alive, bytes }) = decode(&self.input, self.is_head)?
                else {
                    self.keep_partial()?;
                    break;
                };
                self.input.advance(bytes);
                if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Err(Broken::Malformed(
                        "it switches protocols, which nobody asked for",
                    )));
                }
                if !parts.status.is_informational() {
                    self.body = body;
                    self.keeps_alive = keeps_alive;
                    return Poll::Ready(Ok(parts));
                }
            }
            ready!(self.poll_read(cx))?;
            if self.is_closed {
                return Poll::Ready(Err(self.write_error.take().map_or(Broken::Closed, Broken::Io)));
            }
            self.complete_partial();
        }
    }

    /// More of the head has to come.
    fn keep_partial(&mut self) -> Result<(), Broken> {
        if self.input.len() > MAX_HEAD_BYTES {
            return Err(Broken::Malformed("its head is too large"));
        }
        self.partial.extend_from_slice(&std::mem::take(&mut self.input));
        Ok(())
    }

    /// Puts what has come behind what there is of a head; it is parsed only when its end may be there.
    fn complete_partial(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let from = self.partial.len().saturating_sub(3);
        self.partial.extend_from_slice(&std::mem::take(&mut self.input));
        let new = &self.partial[from..];
        let may_end = memmem::find(new, b"\n\r\n").is_some() || memmem::find(new, b"\n\n").is_some();
        if may_end || self.partial.len() > MAX_HEAD_BYTES {
            self.input = std::mem::take(&mut self.partial).into();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.poll_send(cx)?;
        loop {
            match self.body.next(&mut self.input)? {
                Piece::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Piece::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Piece::End => return Poll::Ready(None),
                Piece::NeedsMore => {}
            }
            ready!(self.poll_read(cx))?;
            if self.is_closed {
                self.body.closed()?;
            }
        }
    }

    /// Sends what can be sent. That the server takes no more is no error yet: it may have answered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        match outgoing.poll_write(&mut self.stream, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Broken::Io(error))) => self.write_error = Some(error),
            Poll::Ready(Err(error)) => return Err(error),
        }
        self.outgoing = None;
        Ok(())
    }

    /// Reads into `input`, which is empty, or sees the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|room| {
            let mut room = ReadBuf::new(room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
            let read = room.filled();
            self.input = Bytes::copy_from_slice(read);
            self.is_closed = read.is_empty();
            self.has_heard |= !read.is_empty();
            Poll::Ready(Ok(()))
        })
    }

    /// Nothing has come that nobody asked for, nor the end.
    fn is_silent(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

pub(in crate::forward) async fn connect(address: SocketAddr, patience: Duration) -> Result<TcpStream, Error> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match tokio::time::timeout(patience, connect).await {
        Err(_) => Err(Error::ConnectTimeout { waited: patience }),
        Ok(connected) => connected.map_err(Error::Connect),
    }
}
