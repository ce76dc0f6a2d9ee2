//! Upstreams: immediate fixed responses, or streams with one token per interval.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Result, anyhow};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval_at},
};

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
/// An event of the same size as in vLLM.
const EVENT: &str = r#"data: {"id":"chatcmpl-8f2c1b0a9d3e4f5a","object":"chat.completion.chunk","created":1700000000,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}"#;
const LAST: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
/// Body of a small chat completion.
const FIXED_BODY: &str = r#"{"id":"chatcmpl-0","object":"chat.completion","created":1700000000,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}"#;
const READ_BYTES: usize = 256 << 10;

/// Response to each request, sent after the request has been read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResponseKind {
    /// A small completion, immediately.
    Fixed,
    /// A stream of `tokens` events, one every `interval`.
    Stream { tokens: u32, interval: Duration },
}

/// An upstream on its own thread. Drop stops it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn start(response: ResponseKind) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (address_sender, address_receiver) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                // All addresses: the pods of the pool are several loopback addresses.
                let Ok(listener) = TcpListener::bind("0.0.0.0:0").await else { return };
                let _ = address_sender.send(listener.local_addr());
                let mut connections = tokio::task::JoinSet::new();
                let accepting = async {
                    loop {
                        tokio::select! {
                            Ok((stream, _)) = listener.accept() => {
                                connections.spawn(serve(stream, response));
                            }
                            Some(_) = connections.join_next(), if !connections.is_empty() => {}
                        }
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        let mut address =
            address_receiver.recv().map_err(|_| anyhow!("the upstream cannot bind a port"))??;
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(mut stream: TcpStream, response: ResponseKind) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let event = format!("{:x}\r\n{EVENT}\n\n\r\n", EVENT.len() + 2);
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{FIXED_BODY}",
        FIXED_BODY.len()
    );
    let mut buffer = Vec::with_capacity(READ_BYTES);
    while read_request(&mut stream, &mut buffer).await? {
        match response {
            ResponseKind::Fixed => stream.write_all(whole.as_bytes()).await?,
            ResponseKind::Stream { tokens, interval } => {
                stream.write_all(STREAM_HEAD).await?;
                let mut ticks = interval_at(Instant::now() + interval, interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                for _ in 0..tokens {
                    ticks.tick().await;
                    stream.write_all(event.as_bytes()).await?;
                }
                stream.write_all(LAST).await?;
            }
        }
    }
    Ok(())
}

/// Reads one complete request; false at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let head_bytes = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(false);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_bytes]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    buffer.drain(..head_bytes);
    match length {
        Some(length) => {
            let mut left: usize = length.trim().parse().map_err(io::Error::other)?;
            loop {
                let there = left.min(buffer.len());
                buffer.drain(..there);
                left -= there;
                if left == 0 {
                    return Ok(true);
                }
                read_more(stream, buffer).await?;
            }
        }
        None if head.contains("transfer-encoding: chunked") => {
            skip_chunks(stream, buffer).await.map(|()| true)
        }
        None => Ok(true),
    }
}

async fn skip_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line_bytes = loop {
            match find(buffer, b"\r\n") {
                Some(at) => break at + 2,
                None => read_more(stream, buffer).await?,
            }
        };
        let size = String::from_utf8_lossy(&buffer[..line_bytes - 2]).into_owned();
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        buffer.drain(..line_bytes);
        // Includes the line end after the chunk. The clients send no trailers.
        let mut left = size + 2;
        while left > 0 {
            let there = left.min(buffer.len());
            buffer.drain(..there);
            left -= there;
            if left > 0 {
                read_more(stream, buffer).await?;
            }
        }
        if size == 0 {
            return Ok(());
        }
    }
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}
