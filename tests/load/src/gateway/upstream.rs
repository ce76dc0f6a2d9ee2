//! Upstreams: one that answers at once, one whose answers are streams with a token at each turn of a clock.

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
/// Of the size that vLLM's are.
const EVENT: &str = r#"data: {"id":"chatcmpl-8f2c1b0a9d3e4f5a","object":"chat.completion.chunk","created":1700000000,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}"#;
const LAST: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
/// Of a small chat completion.
const WHOLE: &str = r#"{"id":"chatcmpl-0","object":"chat.completion","created":1700000000,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}"#;
const READ_BYTES: usize = 256 << 10;

/// What requests are answered with, after they have been read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// A small completion, at once.
    Whole,
    /// So many events, one every `interval`.
    Stream { tokens: u32, interval: Duration },
}

/// Runs on a thread of its own until it is dropped.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn start(answer: Answer) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async move {
                // Any address: a pool's pods are several of loopback's.
                let Ok(listener) = TcpListener::bind("0.0.0.0:0").await else { return };
                let _ = tell.send(listener.local_addr());
                let mut connections = tokio::task::JoinSet::new();
                let accepting = async {
                    loop {
                        tokio::select! {
                            Ok((stream, _)) = listener.accept() => {
                                connections.spawn(serve(stream, answer));
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
        let mut address = told.recv().map_err(|_| anyhow!("the upstream cannot listen"))??;
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

async fn serve(mut stream: TcpStream, answer: Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let event = format!("{:x}\r\n{EVENT}\n\n\r\n", EVENT.len() + 2);
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{WHOLE}",
        WHOLE.len()
    );
    let mut buffer = Vec::with_capacity(READ_BYTES);
    while skip_request(&mut stream, &mut buffer).await? {
        match answer {
            Answer::Whole => stream.write_all(whole.as_bytes()).await?,
            Answer::Stream { tokens, interval } => {
                stream.write_all(STREAM_HEAD).await?;
                let mut turns = interval_at(Instant::now() + interval, interval);
                turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
                for _ in 0..tokens {
                    turns.tick().await;
                    stream.write_all(event.as_bytes()).await?;
                }
                stream.write_all(LAST).await?;
            }
        }
    }
    Ok(())
}

/// Reads one request to its end; false if the client is done.
async fn skip_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
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
                some(stream, buffer).await?;
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
                None => some(stream, buffer).await?,
            }
        };
        let size = String::from_utf8_lossy(&buffer[..line_bytes - 2]).into_owned();
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        buffer.drain(..line_bytes);
        // With the line end behind it; no trailers are sent here.
        let mut left = size + 2;
        while left > 0 {
            let there = left.min(buffer.len());
            buffer.drain(..there);
            left -= there;
            if left > 0 {
                some(stream, buffer).await?;
            }
        }
        if size == 0 {
            return Ok(());
        }
    }
}

async fn some(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}
