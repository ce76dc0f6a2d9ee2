//! The decrypted bytes of a client connection, and the version of HTTP at their start.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::activity::Activity;

/// The first bytes of an HTTP/2 client (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose first bytes were read to find out the version of HTTP. They are read again.
#[derive(Debug)]
pub(super) struct PlainStream<S> {
    stream: S,
    start: [u8; PREFACE.len()],
    /// The part of `start` that is to be read again.
    unread: std::ops::Range<usize>,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PlainStream<S> {
    /// Reads until the version is certain. Returns whether it is HTTP/2. `None` if the client sent nothing.
    pub(super) async fn open(mut stream: S, activity: Arc<Activity>) -> io::Result<Option<(Self, bool)>> {
        let mut start = [0; PREFACE.len()];
        let mut bytes = 0;
        let is_http2 = loop {
            let read = stream.read(&mut start[bytes..]).await?;
            bytes += read;
            if read == 0 || start[..bytes] != PREFACE[..bytes] {
                break false;
            }
            if bytes == PREFACE.len() {
                break true;
            }
        };
        if bytes == 0 {
            return Ok(None);
        }
        activity.received(bytes);
        Ok(Some((Self { stream, start, unread: 0..bytes, activity }, is_http2)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.unread.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let bytes = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.start[this.unread.start..][..bytes]);
            this.unread.start += bytes;
        }
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            this.activity.received(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlainStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
