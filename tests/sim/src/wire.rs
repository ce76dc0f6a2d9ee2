//! HTTP/1.1 with uvicorn's write pattern: one write for the head, one for each chunk, one for the last chunk. Each
//! write is one TCP segment (`TCP_NODELAY`).

use std::{io, time::SystemTime};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Maximum size of a request head.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Maximum size of a request body.
const MAX_BODY_BYTES: usize = 64 << 20;
const MAX_HEADERS: usize = 64;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) content_type: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) keep_alive: bool,
    framing: Framing,
    expects_continue: bool,
}

enum Framing {
    None,
    Sized(usize),
    Chunked,
}

/// A connection and the bytes read ahead.
pub(crate) struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    /// Reads the next request head. `None` at the end of the connection.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some((request, length)) = parse_head(&self.ahead)? {
                self.ahead.drain(..length);
                return Ok(Some(request));
            }
            if self.ahead.len() > MAX_HEAD_BYTES {
                return Err(io::Error::other("the request head is too large"));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    pub(crate) async fn body(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        if request.expects_continue {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match request.framing {
            Framing::None => Ok(Vec::new()),
            Framing::Sized(length) => self.take(length).await,
            Framing::Chunked => {
                let mut body = Vec::new();
                loop {
                    let line = self.line().await?;
                    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                    let size = std::str::from_utf8(size)
                        .ok()
                        .and_then(|it| usize::from_str_radix(it.trim(), 16).ok());
                    let size = size.ok_or_else(|| io::Error::other("a chunk has no valid size"))?;
                    if size == 0 {
                        while !self.line().await?.is_empty() {}
                        return Ok(body);
                    }
                    if body.len() + size > MAX_BODY_BYTES {
                        return Err(io::Error::other("the body is too large"));
                    }
                    body.extend(self.take(size).await?);
                    self.line().await?;
                }
            }
        }
    }

    /// Writes a complete response: head and body are two writes.
    pub(crate) async fn respond(
        &mut self,
        status: &str,
        headers: &str,
        content_type: &str,
        body: &str,
    ) -> io::Result<()> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ndate: {date}\r\nserver: uvicorn\r\n{headers}content-length: {length}\r\n\
             content-type: {content_type}\r\nvary: Origin\r\n\r\n"
        );
        self.write(head.as_bytes()).await?;
        if length != 0 {
            self.write(body.as_bytes()).await?;
        }
        Ok(())
    }

    pub(crate) async fn stream_head(&mut self, keep_alive: bool) -> io::Result<()> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let close = if keep_alive { "" } else { "connection: close\r\n" };
        let head = format!(
            "HTTP/1.1 200 OK\r\ndate: {date}\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
             vary: Origin\r\n{close}transfer-encoding: chunked\r\n\r\n"
        );
        self.write(head.as_bytes()).await
    }

    /// Writes one event as one chunk in one write.
    pub(crate) async fn event(&mut self, event: &str) -> io::Result<()> {
        self.write(format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2).as_bytes()).await
    }

    pub(crate) async fn terminator(&mut self) -> io::Result<()> {
        self.write(b"0\r\n\r\n").await
    }

    /// Resolves when the client closes the connection. A half-close counts, as with uvicorn. Other bytes are kept
    /// for the next request.
    pub(crate) async fn gone(&mut self) {
        loop {
            match self.fill().await {
                Ok(0) | Err(_) => return,
                // The client pipelines too many bytes: stop reading.
                Ok(_) if self.ahead.len() > MAX_HEAD_BYTES => std::future::pending().await,
                Ok(_) => {}
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > MAX_BODY_BYTES {
            return Err(io::Error::other("the body is too large"));
        }
        while self.ahead.len() < length {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=end).collect();
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if self.ahead.len() > MAX_HEAD_BYTES || self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Cancel safe: a byte is either still in the socket or in `ahead`.
    async fn fill(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.ahead).await
    }
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let header = |name: &str| {
        parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let chunked = header("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked"));
    let framing = match header("content-length").map(str::parse) {
        _ if chunked => Framing::Chunked,
        Some(Ok(length)) => Framing::Sized(length),
        Some(Err(_)) => return Err(io::Error::other("Content-Length is not a number")),
        None => Framing::None,
    };
    let target = parsed.path.unwrap_or("/");
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or(target).to_owned(),
        content_type: header("content-type").map(str::to_owned),
        request_id: header("x-request-id").map(str::to_owned),
        keep_alive: !header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close")),
        framing,
        expects_continue: header("expect").is_some_and(|it| it.eq_ignore_ascii_case("100-continue")),
    };
    Ok(Some((request, length)))
}
