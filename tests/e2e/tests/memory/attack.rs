//! Hostile clients.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use forebay_e2e::TIMEOUT;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

/// A whole body.
pub const BODY: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[],"stream":true}"#;
/// Start of a body in which no model has been named yet.
pub const OPEN_BODY: &str = r#"{"messages":[{"role":"user","content":""#;

pub fn chat_head(address: SocketAddr, more: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{more}\r\n"
    )
}

/// What a connection answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// The status of a response.
    Status(u16),
    Closed,
    /// Nothing within the time.
    Silent,
}

/// Writes all of `data` unless the peer closes the connection. Gives up when the peer takes nothing for a while.
pub async fn write(stream: &mut TcpStream, data: &[u8]) {
    let mut rest = data;
    while !rest.is_empty() {
        match timeout(TIMEOUT / 4, stream.write(rest)).await {
            Ok(Ok(taken)) if taken > 0 => rest = &rest[taken..],
            _ => return,
        }
    }
}

/// A request that is held gets no reply within this time.
pub const SOON: Duration = Duration::from_secs(5);

/// The status line of a response, if there is one in time.
pub async fn reply(stream: &mut TcpStream, within: Duration) -> Reply {
    let mut head = [0; 12];
    match timeout(within, stream.read_exact(&mut head)).await {
        Ok(Ok(_)) => {
            Reply::Status(std::str::from_utf8(&head[9..]).ok().and_then(|it| it.parse().ok()).unwrap_or(0))
        }
        Ok(Err(_)) => Reply::Closed,
        Err(_) => Reply::Silent,
    }
}

/// Waits until requests are not refused for want of a pod.
pub async fn until_served(address: SocketAddr) {
    let request = chat_head(address, &format!("Content-Length: {}\r\n", BODY.len())) + BODY;
    let served = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            write(&mut stream, request.as_bytes()).await;
            if reply(&mut stream, TIMEOUT).await != Reply::Status(503) {
                return;
            }
        }
    };
    timeout(TIMEOUT, served).await.expect("the pod is known");
}

/// An HTTP/2 client. The connection is read until the task is aborted. `None` if the peer does not accept it.
pub async fn http2(address: SocketAddr, stream_window: u32) -> Option<(SendRequest<Bytes>, JoinHandle<()>)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(stream_window)
        .initial_connection_window_size((1 << 31) - 1)
        .max_send_buffer_size(1 << 20)
        .initial_max_send_streams(10_000);
    let (send, connection) = builder.handshake(stream).await.ok()?;
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    Some((send.ready().await.ok()?, task))
}
