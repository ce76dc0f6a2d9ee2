//! A client that is never the limit: one thread, kept connections, nothing allocated per request.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tokio_util::either::Either;

use crate::{cell::Sent, tls, usage};

/// Where requests go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Plain text without.
    pub(crate) tls: Option<TlsConnector>,
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// Of the client's own thread.
    pub(crate) client_cpu: Duration,
}

/// `connections` users, each sending its next request as soon as the last is answered, and at least one. Any answer but
/// a whole 200 ends it with an error.
pub(crate) fn closed_loop(
    target: &Target,
    sent: &Sent,
    connections: usize,
    duration: Duration,
) -> Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cpu_before = usage::of_this_thread();
    let started = Instant::now();
    let requests = runtime.block_on(async {
        let mut users = JoinSet::new();
        for _ in 0..connections {
            let (target, request) = (target.clone(), sent.bytes.clone());
            users.spawn(async move {
                let mut connection = Connection::open(&target).await?;
                let mut requests = 0;
                loop {
                    connection.exchange(&request).await?;
                    requests += 1;
                    if started.elapsed() >= duration {
                        break Ok::<u64, anyhow::Error>(requests);
                    }
                }
            });
        }
        let mut requests = 0;
        while let Some(user) = users.join_next().await {
            requests += user??;
        }
        Ok::<u64, anyhow::Error>(requests)
    })?;
    Ok(Load {
        requests,
        elapsed: started.elapsed(),
        client_cpu: usage::of_this_thread().saturating_sub(cpu_before),
    })
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(Target { address, tls }: &Target) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
        stream.set_nodelay(true)?;
        let stream = match tls {
            None => Either::Left(stream),
            Some(connector) => {
                let stream = connector.connect(ServerName::try_from(tls::HOST)?, stream).await;
                Either::Right(stream.with_context(|| format!("no TLS with {address}"))?)
            }
        };
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10) })
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("the answer broke off");
            }
            if answer_is_whole(&self.buffer)? {
                return Ok(());
            }
        }
    }
}

/// Whether `bytes` hold all of an answer that must be a 200.
pub(crate) fn answer_is_whole(bytes: &[u8]) -> Result<bool> {
    let Some(head_bytes) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(false);
    };
    let head = std::str::from_utf8(&bytes[..head_bytes])?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "answered with {:?}", head.lines().next().unwrap_or_default());
    let body = &bytes[head_bytes..];
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(body.len() >= value.trim().parse()?);
        }
    }
    Ok(body.ends_with(b"0\r\n\r\n"))
}
