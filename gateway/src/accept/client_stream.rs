//! The socket of a client: write timeout and lingering close.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::Activity;
use crate::runtime::{IdleTimeout, LazyDeadline};

/// Maximum time of a lingering close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum wait for the client's next bytes in a lingering close.
const LINGER_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes that are read and dropped in a lingering close.
const LINGER_BYTES: usize = 256 << 20;
/// Maximum size of one read in a lingering close.
const READ_BYTES: usize = 16 << 10;

/// A TCP connection of a client.
///
/// - A write fails after the write timeout in which the client took no byte.
/// - If the client still sends when the connection is closed, what it sends is read and dropped for a while (RFC 9112
///   §9.6). A socket that is closed with unread data sends a TCP reset, which can delete the response at the client.
#[derive(Debug)]
pub(super) struct ClientStream {
    stream: TcpStream,
    activity: Arc<Activity>,
    write_timeout: IdleTimeout,
    /// Set once the writing side is closed.
    linger: Option<Linger>,
}

impl ClientStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, write_timeout: Duration) -> Self {
        Self { stream, activity, write_timeout: IdleTimeout::new(write_timeout), linger: None }
    }

    /// Fails if `written` is pending for longer than the write timeout.
    fn within_timeout<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timeout.reset();
            return written;
        }
        let waited = ready!(self.write_timeout.poll_expired(cx));
        self.activity.set_stalled();
        let error = format!("the client took no data for {} s", waited.as_secs_f64());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.within_timeout(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.within_timeout(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The buffer of a TCP socket is the kernel's.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.activity.expects_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        this.linger.get_or_insert_with(Linger::new).poll_end(&mut this.stream, cx).map(Ok)
    }
}

/// A lingering close.
#[derive(Debug)]
struct Linger {
    until: Instant,
    deadline: LazyDeadline,
    idle_timeout: IdleTimeout,
    bytes_left: usize,
}

impl Linger {
    fn new() -> Self {
        Self {
            until: tokio::time::Instant::now().into_std() + LINGER_TIMEOUT,
            deadline: LazyDeadline::default(),
            idle_timeout: IdleTimeout::new(LINGER_IDLE_TIMEOUT),
            bytes_left: LINGER_BYTES,
        }
    }

    /// Ready when the client has closed its side, or a limit is reached.
    fn poll_end(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline.poll_expired(self.until, cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let mut dropped = [MaybeUninit::uninit(); READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut dropped);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.idle_timeout.poll_expired(cx).map(drop),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.idle_timeout.reset(),
            }
            let bytes = buffer.filled().len();
            if bytes == 0 || bytes >= self.bytes_left {
                return Poll::Ready(());
            }
            self.bytes_left -= bytes;
        }
    }
}
