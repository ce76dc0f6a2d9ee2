use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::within;

/// An endpoint that the test controls step by step.
pub struct Upstream {
    listener: TcpListener,
}

impl Upstream {
    pub async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    pub async fn accept(&self) -> Connection {
        let (stream, _) = within("a connection to the model server", self.listener.accept()).await.unwrap();
        Connection::of(stream)
    }

    /// The next connection, without a time limit.
    pub async fn accept_any(&self) -> std::io::Result<Connection> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Connection::of(stream))
    }

    /// One complete exchange on a new connection.
    pub async fn answer_one(&self, body: &str) -> Request {
        let mut connection = self.accept().await;
        let request = connection.read_request().await;
        connection.respond(200, body).await;
        request
    }
}

/// A request as received.
#[derive(Debug)]
pub struct Request {
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}

pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn of(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Reads more bytes into the buffer. False at the end of the stream.
    async fn fill(&mut self) -> bool {
        within("bytes", self.stream.read_buf(&mut self.buffer)).await.unwrap() > 0
    }

    /// Reads the first line and headers (names in lower case).
    pub async fn read_head(&mut self) -> Request {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let head = String::from_utf8(head).unwrap();
                let mut lines = head.split("\r\n");
                let line = lines.next().unwrap().to_owned();
                let headers = lines
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                    .collect();
                return Request { line, headers, body: Vec::new() };
            }
            assert!(
                self.fill().await,
                "the stream ended inside a head: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Reads until `text` has arrived.
    pub async fn read_until(&mut self, text: &str) -> String {
        loop {
            let got = String::from_utf8_lossy(&self.buffer);
            if let Some(at) = got.find(text) {
                let end = at + text.len();
                let read = self.buffer.drain(..end).collect();
                return String::from_utf8(read).unwrap();
            }
            assert!(
                self.fill().await,
                "the stream ended before {text:?}: {got:?}",
                got = String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Reads to the end of the stream or an error.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        within("the end of the stream", async {
            let mut rest = std::mem::take(&mut self.buffer);
            while matches!(self.stream.read_buf(&mut rest).await, Ok(1..)) {}
            rest
        })
        .await
    }

    /// The next request, without a time limit. `None` at the end of the stream.
    pub async fn next_request(&mut self) -> Option<Request> {
        if self.buffer.is_empty() && self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
            return None;
        }
        Some(self.read_request().await)
    }

    pub async fn read_request(&mut self) -> Request {
        let mut request = self.read_head().await;
        self.read_body(&mut request).await;
        request
    }

    pub async fn read_body(&mut self, head: &mut Request) {
        if head.header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            loop {
                let size = self.read_until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                head.body.extend(self.take(size).await);
                self.take(2).await;
                if size == 0 {
                    return;
                }
            }
        }
        let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
        head.body = self.take(length).await;
    }

    async fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffer.len() < bytes {
            assert!(self.fill().await, "the stream ended inside a body");
        }
        self.buffer.drain(..bytes).collect()
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within("room to write", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    pub async fn respond(&mut self, status: u16, body: &str) {
        let length = body.len();
        self.write(format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")).await;
    }
}
