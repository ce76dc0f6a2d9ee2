//! A fast client: one thread, keep-alive connections, no allocation per request.

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

use forebay_bench::usage;

use crate::{request::RawRequest, tls};

/// Destination of requests.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Plain text if `None`.
    pub(crate) tls: Option<TlsConnector>,
}

/// Result of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// CPU time of the client thread.
    pub(crate) client_cpu: Duration,
}

/// Runs a closed loop on `connections` connections: each sends the next request as soon as the last response is
/// complete, and at least one. Any response other than a complete 200 is an error.
pub(crate) fn closed_loop(
    target: &Target,
    request: &RawRequest,
    connections: usize,
    duration: Duration,
) -> Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cpu_before = usage::of_this_thread();
    let started = Instant::now();
    let requests = runtime.block_on(async {
        let mut users = JoinSet::new();
        for _ in 0..connections {
            let (target, request) = (target.clone(), request.bytes.clone());
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
                Either::Right(stream.with_context(|| format!("TLS handshake with {address} failed"))?)
            }
        };
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10) })
    }

    /// Sends a request and reads the complete response.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof))
                    .context("the response was cut off");
            }
            if is_complete(&self.buffer)? {
                return Ok(());
            }
        }
    }
}

/// Whether `bytes` contain a complete response. Fails if its status is not 200.
pub(crate) fn is_complete(bytes: &[u8]) -> Result<bool> {
    let Some(head_bytes) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(false);
    };
    let head = std::str::from_utf8(&bytes[..head_bytes])?;
    ensure!(
        head.starts_with("HTTP/1.1 200 "),
        "unexpected response {:?}",
        head.lines().next().unwrap_or_default()
    );
    let body = &bytes[head_bytes..];
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(body.len() >= value.trim().parse()?);
        }
    }
    Ok(body.ends_with(b"0\r\n\r\n"))
}
