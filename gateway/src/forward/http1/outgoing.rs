use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::request;
use http_body::Body as _;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::head::{Framing, encode};
use crate::forward::error::ExchangeError;
use crate::hold::{ReadError, UpstreamBody};

/// A body up to this size is written together with the head.
const COPIED_BYTES: u64 = 4 << 10;
/// Maximum bytes taken from the client before they are written. Held frames do not count.
const QUEUE_BYTES: usize = 128 << 10;
/// Maximum buffers of one vectored write.
const MAX_BUFFERS: usize = 32;

/// A request while it is written.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: UpstreamBody,
    framing: Framing,
    /// The head, followed by a small body.
    first: Vec<u8>,
    first_written: usize,
    queue: VecDeque<Bytes>,
    queue_bytes: usize,
    /// The whole body is written or queued.
    has_ended: bool,
}

impl Outgoing {
    pub(super) fn new(head: &request::Parts, body: UpstreamBody) -> Self {
        let framing = body.size_hint().exact().map_or(Framing::Chunked, Framing::Length);
        let copied_bytes = match framing {
            Framing::Length(bytes) if bytes <= COPIED_BYTES => bytes as usize,
            Framing::Length(_) | Framing::Chunked => 0,
        };
        let first = encode(head, framing, copied_bytes);
        Self {
            body,
            framing,
            first,
            first_written: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            has_ended: false,
        }
    }

    /// Ready when the request is written completely.
    pub(super) fn poll_write(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            self.fill(cx)?;
            let first = &self.first[self.first_written..];
            if first.is_empty() && self.queue.is_empty() {
                return if self.has_ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let stream = Pin::new(&mut *stream);
            let written = if self.queue.is_empty() {
                ready!(stream.poll_write(cx, first))?
            } else {
                let mut buffers = [IoSlice::new(&[]); MAX_BUFFERS];
                let mut count = 0;
                let first = Some(first).filter(|first| !first.is_empty());
                for (buffer, piece) in
                    buffers.iter_mut().zip(first.into_iter().chain(self.queue.iter().map(|it| &it[..])))
                {
                    *buffer = IoSlice::new(piece);
                    count += 1;
                }
                ready!(stream.poll_write_vectored(cx, &buffers[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.advance(written);
        }
    }

    /// Queues data of the body that is available, up to the limits.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        while !self.has_ended
            && (self.queue_bytes < QUEUE_BYTES || self.body.is_held())
            && self.queue.len() < MAX_BUFFERS
        {
            let data = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => return self.end(),
                Poll::Ready(Some(frame)) => frame?.into_data().unwrap_or_default(),
            };
            if data.is_empty() {
                continue;
            }
            match &mut self.framing {
                Framing::Length(left) => {
                    // Bytes beyond the announced length would be read as the next request.
                    *left = left.checked_sub(data.len() as u64).ok_or(ReadError::Broken)?;
                    let is_last = *left == 0;
                    self.push(data);
                    if is_last {
                        self.has_ended = true;
                    }
                }
                Framing::Chunked => {
                    let mut size = String::with_capacity(18);
                    // Writing to a String cannot fail.
                    let _ = write!(size, "{:x}\r\n", data.len());
                    self.push(size.into());
                    self.push(data);
                    self.push(Bytes::from_static(b"\r\n"));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ExchangeError> {
        self.has_ended = true;
        match self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(ReadError::Broken.into()),
            Framing::Chunked => self.push(Bytes::from_static(b"0\r\n\r\n")),
        }
        Ok(())
    }

    fn push(&mut self, data: Bytes) {
        let has_room = self.first.capacity() - self.first.len() >= data.len();
        if self.queue.is_empty() && self.first_written == 0 && has_room {
            self.first.extend_from_slice(&data);
        } else {
            self.queue_bytes += data.len();
            self.queue.push_back(data);
        }
    }

    fn advance(&mut self, mut written: usize) {
        let of_first = written.min(self.first.len() - self.first_written);
        self.first_written += of_first;
        written -= of_first;
        self.queue_bytes -= written;
        while let Some(piece) = self.queue.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                break;
            }
            written -= piece.len();
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// The bytes that a server receives for a POST with these frames.
    async fn sent(frames: Vec<Bytes>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reading = async {
            let mut text = String::new();
            listener.accept().await.unwrap().0.read_to_string(&mut text).await.unwrap();
            text
        };
        let sending = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = Request::post("/").header("host", "a").body(()).unwrap().into_parts().0;
            let mut outgoing = Outgoing::new(&head, UpstreamBody::complete(frames));
            std::future::poll_fn(|cx| outgoing.poll_write(&mut stream, cx)).await.unwrap();
        };
        tokio::join!(reading, sending).0
    }

    #[tokio::test]
    async fn sends_bodies_of_every_size_completely() {
        for (count, bytes) in
            [(0, 0), (1, 1), (3, 1000), (1, 4096), (1, 4097), (40, 100), (40, 9000), (3, 900_000)]
        {
            let frames: Vec<Bytes> = (0..count).map(|at| vec![b'a' + at as u8 % 26; bytes].into()).collect();
            let body = String::from_utf8(frames.concat()).unwrap();
            let text = sent(frames).await;
            let (head, arrived) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
            assert!(arrived == body, "{count} frames of {bytes} bytes");
        }
    }
}
