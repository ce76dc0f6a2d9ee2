//! A picker that sends more than the gateway accepts.

use bytes::Bytes;
use h2::SendStream;
use h2::server::Connection;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::client::{exchange, post};
use crate::support::harness::{Harness, QWEN};
use crate::support::upstream::Upstream;
use crate::support::within;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;
/// Length in the prefix. The gateway accepts 16 MiB.
const ANNOUNCED_BYTES: u32 = 512 << 20;
/// The picker stops here if the gateway does not stop it. More than the gateway accepts.
const MOST_SENT_BYTES: usize = 48 << 20;
const FRAME_BYTES: usize = 16 << 10;

/// Replies to every request with the start of a long message. Returns its port, and the bytes it could send per request.
async fn start(first_bytes: usize) -> (u16, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, sent) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            tokio::spawn(async move {
                // The first connection of a gateway is an attempt with TLS.
                if let Ok(connection) = h2::server::handshake(stream).await {
                    serve(connection, first_bytes, sender).await;
                }
            });
        }
    });
    (port, sent)
}

async fn serve(mut connection: Connection<TcpStream, Bytes>, first_bytes: usize, sent: mpsc::Sender<usize>) {
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let stream = respond.send_response(head, false).unwrap();
        let sent = sent.clone();
        tokio::spawn(async move {
            let bytes = send_until_reset(stream, first_bytes).await;
            drop(request);
            let _ = sent.send(bytes).await;
        });
    }
}

/// Sends a prefix in frames of `first_bytes` bytes, and then the message until the gateway resets the stream.
async fn send_until_reset(mut stream: SendStream<Bytes>, first_bytes: usize) -> usize {
    let prefix = [&[0], &ANNOUNCED_BYTES.to_be_bytes()[..]].concat();
    for piece in prefix.chunks(first_bytes) {
        if stream.send_data(Bytes::copy_from_slice(piece), false).is_err() {
            return 0;
        }
    }
    let mut bytes = 0;
    while bytes < MOST_SENT_BYTES {
        stream.reserve_capacity(FRAME_BYTES);
        let Some(Ok(capacity)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
        if stream.send_data(vec![0; capacity].into(), false).is_err() {
            break;
        }
        bytes += capacity;
    }
    bytes
}

#[tokio::test]
async fn a_long_reply_ends_at_its_prefix_however_it_is_split() {
    let upstream = Upstream::bind().await;
    for first_bytes in 1..=5 {
        let (port, mut sent) = start(first_bytes).await;
        let running =
            Harness::new().pool("qwen", QWEN, &[upstream.port()], Some((port, "FailClose"))).start().await;
        let response = exchange(running.address(), post(CHAT)).await;
        assert_eq!((response.status, response.code().as_str()), (503, "picker_unavailable"));
        let bytes = within("the end of the reply", sent.recv()).await.unwrap();
        // What the flow control windows let through before the reset arrives.
        assert!(bytes <= 16 << 20, "{first_bytes} bytes per frame: {bytes} bytes were accepted");
    }
}
