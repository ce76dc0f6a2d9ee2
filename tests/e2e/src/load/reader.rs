//! Reads a response from a socket: head and body framing.

use std::io;

use tokio::{io::AsyncReadExt as _, net::TcpStream};

const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Body framing of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Sized(u64),
    Chunked,
    ToEnd,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
}

/// A connection and its unread bytes.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Reader {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), at: 0 }
    }

    pub(super) async fn head(&mut self) -> io::Result<Head> {
        loop {
            let unread = &self.buffer[self.at..];
            if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&unread[..end]).to_ascii_lowercase();
                self.at += end + 4;
                let head = parse_head(&head)?;
                if head.status >= 200 {
                    return Ok(head);
                }
                continue;
            }
            if unread.len() > MAX_HEAD_BYTES {
                return Err(io::Error::other("the response head is too large"));
            }
            self.fill().await?;
        }
    }

    /// The next piece of the body; `None` after the end.
    pub(super) async fn piece(&mut self, body: &mut Body) -> io::Result<Option<Vec<u8>>> {
        match body {
            Body::End => Ok(None),
            Body::Sized(left) => {
                if *left == 0 {
                    *body = Body::End;
                    return Ok(None);
                }
                let piece = self.read_some(*left).await?;
                *left -= piece.len() as u64;
                Ok(Some(piece))
            }
            Body::Chunk(left) => {
                if *left == 0 {
                    let line = self.line().await?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    *left = u64::from_str_radix(size, 16)
                        .map_err(|_bad| io::Error::other(format!("invalid chunk size: {line:?}")))?;
                    if *left == 0 {
                        while !self.line().await?.is_empty() {}
                        *body = Body::End;
                        return Ok(None);
                    }
                }
                let piece = self.read_some(*left).await?;
                *left -= piece.len() as u64;
                if *left == 0 && !self.line().await?.is_empty() {
                    return Err(io::Error::other("no CRLF after the chunk"));
                }
                Ok(Some(piece))
            }
            Body::ToEnd => match self.read_some(u64::MAX).await {
                Ok(piece) => Ok(Some(piece)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    *body = Body::End;
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn read_some(&mut self, max_bytes: u64) -> io::Result<Vec<u8>> {
        if self.at == self.buffer.len() {
            self.fill().await?;
        }
        let unread = &self.buffer[self.at..];
        let take = unread.len().min(usize::try_from(max_bytes).unwrap_or(usize::MAX));
        let piece = unread[..take].to_vec();
        self.at += take;
        Ok(piece)
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            let unread = &self.buffer[self.at..];
            if let Some(end) = unread.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..end]).into_owned();
                self.at += end + 2;
                return Ok(line);
            }
            if unread.len() > MAX_HEAD_BYTES {
                return Err(io::Error::other("a line is too long"));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Remaining part of a body.
#[derive(Debug)]
pub(super) enum Body {
    Sized(u64),
    Chunk(u64),
    ToEnd,
    End,
}

impl From<Framing> for Body {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Sized(length) => Self::Sized(length),
            Framing::Chunked => Self::Chunk(0),
            Framing::ToEnd => Self::ToEnd,
        }
    }
}

fn parse_head(head: &str) -> io::Result<Head> {
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|it| it.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("no status line"))?;
    let mut framing = Framing::ToEnd;
    let mut keep_alive = true;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        match (name, value.trim()) {
            ("transfer-encoding", "chunked") => framing = Framing::Chunked,
            ("content-length", length) if framing != Framing::Chunked => {
                framing = Framing::Sized(length.parse().map_err(io::Error::other)?);
            }
            ("connection", "close") => keep_alive = false,
            _ => {}
        }
    }
    Ok(Head { status, framing, keep_alive })
}
