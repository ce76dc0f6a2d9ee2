//! One client: sequential requests over a keep-alive connection.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::reader::{Body, Head, Reader};

/// Kind of request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A stream, read to the end.
    Stream { tokens: u32 },
    /// A stream that the client closes after `after_events` events.
    Abort { tokens: u32, after_events: u32 },
    /// A response without streaming.
    Whole { tokens: u32 },
    /// A request that the engine rejects with 400.
    Refused,
    /// A stream with a prompt of `bytes`.
    LongPrompt { bytes: usize, tokens: u32 },
}

/// Result of a request.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub status: u16,
    /// SSE `data:` events, `[DONE]` included.
    pub events: u32,
    /// `[DONE]` was seen.
    pub done: bool,
    /// The client closed the connection as planned ([`Shape::Abort`]).
    pub aborted: bool,
    /// Time from the first request byte written to the first content byte read.
    pub ttft: Option<Duration>,
    /// Local port of the connection.
    pub port: u16,
    /// The connection was reused.
    pub reused: bool,
    /// The first bytes of the body (at most 64 KiB).
    pub body: String,
}

/// Sends requests to one address.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    connection: Option<Reader>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends a chat request and reads the response. Reconnects once if the server has closed the idle connection.
    pub async fn chat(&mut self, model: &str, shape: &Shape) -> io::Result<Outcome> {
        self.post("/v1/chat/completions", &body(model, shape), shape).await
    }

    /// Posts a JSON body and reads the complete response.
    pub async fn post_json(&mut self, path: &str, json: &str) -> io::Result<Outcome> {
        self.post(path, json, &Shape::Whole { tokens: 0 }).await
    }

    async fn post(&mut self, path: &str, json: &str, shape: &Shape) -> io::Result<Outcome> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            json.len()
        );
        let request = [head.as_bytes(), json.as_bytes()].concat();
        if let Some(connection) = self.connection.take() {
            match self.exchange(connection, &request, shape, true).await {
                Err(error) if is_stale(&error) => {}
                result => return result,
            }
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        self.exchange(Reader::new(stream), &request, shape, false).await
    }

    async fn exchange(
        &mut self,
        mut connection: Reader,
        request: &[u8],
        shape: &Shape,
        reused: bool,
    ) -> io::Result<Outcome> {
        let started = Instant::now();
        connection.stream.write_all(request).await.map_err(stale)?;
        let head = connection.head().await.map_err(stale)?;
        let mut outcome = Outcome {
            status: head.status,
            port: connection.stream.local_addr()?.port(),
            reused,
            ..Outcome::default()
        };
        let abort_after = match shape {
            Shape::Abort { after_events, .. } => Some(*after_events),
            _ => None,
        };
        self.read(connection, &head, abort_after, started, &mut outcome).await?;
        Ok(outcome)
    }

    async fn read(
        &mut self,
        mut connection: Reader,
        head: &Head,
        abort_after: Option<u32>,
        started: Instant,
        outcome: &mut Outcome,
    ) -> io::Result<()> {
        let mut body = Body::from(head.framing);
        let mut events = Events::default();
        let mut text = Vec::new();
        while let Some(piece) = connection.piece(&mut body).await? {
            if outcome.ttft.is_none() && !piece.starts_with(b":") {
                outcome.ttft = Some(started.elapsed());
            }
            events.read(&piece);
            text.extend_from_slice(&piece[..piece.len().min(MAX_KEPT_BYTES.saturating_sub(text.len()))]);
            if abort_after.is_some_and(|after| events.data >= after) && !events.done {
                outcome.aborted = true;
                outcome.events = events.data;
                // The drop closes the connection.
                return Ok(());
            }
        }
        (outcome.events, outcome.done) = (events.data, events.done);
        outcome.body = String::from_utf8_lossy(&text).into_owned();
        if head.keep_alive {
            self.connection = Some(connection);
        }
        Ok(())
    }
}

/// Maximum bytes of a body that are kept in [`Outcome::body`].
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// Counts SSE events in pieces of any size.
#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
    data: u32,
    done: bool,
}

impl Events {
    fn read(&mut self, piece: &[u8]) {
        for &byte in piece {
            if byte != b'\n' {
                // Enough to recognise the line.
                if self.line.len() < 16 {
                    self.line.push(byte);
                }
                continue;
            }
            if self.line.starts_with(b"data:") {
                self.data += 1;
                self.done |= self.line == b"data: [DONE]";
            }
            self.line.clear();
        }
    }
}

/// Whether an idle connection was closed by the server: no response byte was received.
fn is_stale(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stale>())
}

#[derive(Debug)]
struct Stale(io::Error);

impl std::fmt::Display for Stale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connection closed before the response: {}", self.0)
    }
}

impl std::error::Error for Stale {}

fn stale(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Stale(error))
}

fn body(model: &str, shape: &Shape) -> String {
    let (tokens, stream, prompt) = match shape {
        Shape::Stream { tokens } | Shape::Abort { tokens, .. } => {
            (i64::from(*tokens), true, "Hello".to_owned())
        }
        Shape::Whole { tokens } => (i64::from(*tokens), false, "Hello".to_owned()),
        Shape::Refused => (-1, true, "Hello".to_owned()),
        Shape::LongPrompt { bytes, tokens } => (i64::from(*tokens), true, "water ".repeat(bytes / 6)),
    };
    serde_json::json!({
        "model": model,
        "messages": [{ "role": "user", "content": prompt }],
        "max_tokens": tokens,
        "stream": stream,
        // Real vLLM then generates exactly max_tokens tokens.
        "ignore_eos": true,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_events_across_any_split() {
        let text = b": keep-alive\n\ndata: {\"a\":1}\n\ndata: [DONE]\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            text.chunks(size).for_each(|piece| events.read(piece));
            assert_eq!((events.data, events.done), (2, true), "in pieces of {size}");
        }
    }
}
