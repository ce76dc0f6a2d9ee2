use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, request, response};
use http_body::{Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

use super::decode::Decoded;
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use crate::forward::error::{Error, ExchangeError};
use crate::hold::UpstreamBody;
use crate::runtime::LazyDeadline;

/// Maximum size of one read.
const READ_BYTES: usize = 64 << 10;

thread_local! {
    /// Read buffer of this thread. What was read is copied into a buffer of the right size.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A connection that was idle for less is reused without asking the kernel. Endpoints close connections that are idle for
/// seconds.
const TRUSTED_IDLE: Duration = Duration::from_millis(10);

/// A connection to an endpoint, driven by its owner.
///
/// It has no task of its own: the task of the request polls it. Dropping it closes the socket at once, which tells the
/// engine that the client went away. An idle connection is checked when it is reused ([`Connection::is_usable`]).
#[derive(Debug)]
pub(crate) struct Connection(Box<Inner>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    _open: OpenConnection,
    address: SocketAddr,
    idle_since: Instant,
    /// The request, until it is written completely.
    outgoing: Option<Outgoing>,
    /// The kernel has accepted the whole request.
    is_written: bool,
    /// Why writing the request stopped. The endpoint may have responded anyway.
    write_error: Option<io::Error>,
    incoming: Incoming,
    /// At least one byte of the response has arrived.
    has_received: bool,
    /// The endpoint closed the connection.
    is_closed: bool,
    is_head: bool,
    /// Deadline of the response head.
    head_deadline: LazyDeadline,
}

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub(in crate::forward) struct OpenConnection(Arc<AtomicUsize>);

impl OpenConnection {
    /// `count` is already increased for this connection.
    pub(in crate::forward) fn new(count: Arc<AtomicUsize>) -> Self {
        Self(count)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    pub(in crate::forward) async fn open(
        address: SocketAddr,
        timeout: Duration,
        open: OpenConnection,
    ) -> Result<Self, Error> {
        let stream = connect(address, timeout).await?;
        Ok(Self(Box::new(Inner {
            stream,
            _open: open,
            address,
            idle_since: Instant::now(),
            outgoing: None,
            is_written: false,
            write_error: None,
            incoming: Incoming::default(),
            has_received: false,
            is_closed: false,
            is_head: false,
            head_deadline: LazyDeadline::default(),
        })))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Sends a request and waits for the response head until `deadline`. [`Connection::poll_frame`] then reads the body,
    /// and sends the rest of the request.
    pub(crate) async fn send(
        &mut self,
        head: &request::Parts,
        body: UpstreamBody,
        deadline: Instant,
    ) -> Result<response::Parts, ExchangeError> {
        let inner = &mut *self.0;
        inner.is_head = head.method == Method::HEAD;
        inner.has_received = false;
        inner.is_written = false;
        inner.outgoing = Some(Outgoing::new(head, body));
        poll_fn(|cx| {
            if let Poll::Ready(head) = inner.poll_head(cx) {
                return Poll::Ready(head);
            }
            inner.head_deadline.poll_expired(deadline, cx).map(|()| Err(ExchangeError::Timeout))
        })
        .await
    }

    /// Whether the endpoint may have received the whole request.
    pub(crate) fn may_have_sent_all(&self) -> bool {
        self.0.is_written
    }

    /// Whether any byte of a response has arrived.
    pub(crate) fn has_received(&self) -> bool {
        self.0.has_received
    }

    /// The next frame of the response body. Continues to send the request.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        self.0.poll_frame(cx)
    }

    /// The response has been returned completely.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.0.incoming.is_ended()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.0.incoming.remaining().map_or_else(SizeHint::new, SizeHint::with_exact)
    }

    /// The exchange is complete.
    pub(crate) fn set_idle(&mut self) {
        self.0.idle_since = Instant::now();
    }

    pub(crate) fn idle_for(&self) -> Duration {
        self.0.idle_since.elapsed()
    }

    /// Whether the previous request and its response are complete, and the endpoint keeps the connection.
    pub(crate) fn is_complete(&self) -> bool {
        let inner = &*self.0;
        let is_sent = inner.outgoing.is_none() && inner.write_error.is_none();
        is_sent && inner.incoming.is_reusable() && !inner.is_closed
    }

    /// Whether another request can be sent: a complete connection on which nothing has arrived since.
    pub(crate) fn is_usable(&mut self) -> bool {
        let is_silent =
            if self.idle_for() < TRUSTED_IDLE { self.0.seems_silent() } else { self.0.is_silent() };
        is_silent && self.is_complete()
    }
}

impl Inner {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, ExchangeError>> {
        self.poll_send(cx)?;
        loop {
            if let Some(head) = self.incoming.head(self.is_head)? {
                return Poll::Ready(Ok(head));
            }
            ready!(self.poll_read(cx))?;
            if self.is_closed {
                return Poll::Ready(Err(self
                    .write_error
                    .take()
                    .map_or(ExchangeError::Closed, ExchangeError::Io)));
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        self.poll_send(cx)?;
        loop {
            match self.incoming.frame()? {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Decoded::End => return Poll::Ready(None),
                Decoded::NeedsMore => {}
            }
            ready!(self.poll_read(cx))?;
            if self.is_closed {
                self.incoming.closed()?;
            }
        }
    }

    /// Sends as much as possible. A write error is kept for later: the endpoint may have responded already.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        match outgoing.poll_write(&mut self.stream, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => self.is_written = true,
            Poll::Ready(Err(ExchangeError::Io(error))) => self.write_error = Some(error),
            Poll::Ready(Err(error)) => return Err(error),
        }
        self.outgoing = None;
        Ok(())
    }

    /// Reads the next bytes of the response, or detects the end of the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            self.is_closed = read.is_empty();
            self.has_received |= !read.is_empty();
            self.incoming.push(Bytes::copy_from_slice(read));
            Poll::Ready(Ok(()))
        })
    }

    /// Like [`Inner::is_silent`], as far as the runtime has seen. Costs no system call if it has seen nothing.
    fn seems_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        self.stream.poll_peek(&mut Context::from_waker(Waker::noop()), &mut buffer).is_pending()
    }

    /// No unexpected data and no end of the connection has arrived. The kernel is asked, because the runtime sees it only
    /// after it has polled the sockets again.
    fn is_silent(&self) -> bool {
        let read = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Opens a TCP connection with `TCP_NODELAY`.
pub(in crate::forward) async fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, Error> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match tokio::time::timeout(timeout, connect).await {
        Err(_) => Err(Error::ConnectTimeout { waited: timeout }),
        Ok(connected) => connected.map_err(Error::Connect),
    }
}
