//! 10,000 streams at one time, half of them over HTTP/2.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
};

use crate::{
    events::Events,
    proxies::{Proxies, Proxy},
    request::{Order, RawRequest},
    upstream::{ResponseKind, Upstream},
};
use forebay_bench::report::{Section, kib, say};

/// Maximum concurrent connection attempts.
const MAX_CONNECTING: usize = 64;
const TOKENS: u32 = 30;
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(300);

/// Number of concurrent streams by protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamCounts {
    pub(crate) over_h1: u32,
    pub(crate) h2_connections: u32,
    pub(crate) streams_per_h2_connection: u32,
    /// Tokens per stream.
    pub(crate) tokens: u32,
}

const COUNTS: StreamCounts =
    StreamCounts { over_h1: 5000, h2_connections: 10, streams_per_h2_connection: 500, tokens: TOKENS };

impl StreamCounts {
    fn streams(self) -> u32 {
        self.over_h1 + self.h2_connections * self.streams_per_h2_connection
    }
}

/// Result of a run.
#[derive(Debug)]
struct Ran {
    together: u32,
    /// Memory while all streams were running.
    rss_bytes: u64,
    failed: Vec<anyhow::Error>,
}

/// State shared by all streams.
#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    tokens: u32,
    running: AtomicU32,
    most: AtomicU32,
    connecting: tokio::sync::Semaphore,
    /// Passed when all streams have started.
    all_run: Barrier,
}

impl Shared {
    fn began(&self) {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(running, Ordering::Relaxed);
    }

    fn ended(&self, events: &Events) -> Result<()> {
        self.running.fetch_sub(1, Ordering::Relaxed);
        let tokens = self.tokens;
        ensure!(events.done && events.seen == tokens, "received {} of {tokens} tokens", events.seen);
        Ok(())
    }
}

pub(crate) fn measure() -> Result<Section> {
    let streams = COUNTS.streams();
    say(&format!("concurrent: {streams} streams"));
    let upstream = Upstream::start(ResponseKind::Stream { tokens: TOKENS, interval: INTERVAL })?;
    let proxies = Proxies::forebay(upstream.address.port())?;
    let gateway = &proxies.all[0];
    let before = gateway.rss_bytes()?;
    let Ran { together, rss_bytes, failed } = run(gateway, COUNTS)?;
    let mut section = Section::new(format!(
        "{streams} concurrent streams, {} over HTTP/1.1 and the rest over HTTP/2",
        COUNTS.over_h1
    ));
    section.line(format!(
        "concurrent: {together}; failed: {}; memory: {:.1} KiB per stream",
        failed.len(),
        kib(rss_bytes.saturating_sub(before)) / f64::from(streams)
    ));
    none_failed(failed).map(|()| section)
}

/// Runs the streams without a report. Fails if a stream fails.
pub(crate) fn pass(proxy: &Proxy, counts: StreamCounts) -> Result<()> {
    none_failed(run(proxy, counts)?.failed)
}

fn none_failed(failed: Vec<anyhow::Error>) -> Result<()> {
    match failed.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(first.context("a stream failed")),
    }
}

fn run(gateway: &Proxy, counts: StreamCounts) -> Result<Ran> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::new(Shared {
        address: gateway.target.address,
        tokens: counts.tokens,
        running: AtomicU32::new(0),
        most: AtomicU32::new(0),
        connecting: tokio::sync::Semaphore::new(MAX_CONNECTING),
        all_run: Barrier::new(counts.streams() as usize + 1),
    });
    let work = async {
        let mut streams = JoinSet::new();
        for _ in 0..counts.over_h1 {
            streams.spawn(over_h1(shared.clone()));
        }
        for _ in 0..counts.h2_connections {
            let connection = connect_h2(shared.address).await?;
            for _ in 0..counts.streams_per_h2_connection {
                streams.spawn(over_h2(shared.clone(), connection.clone()));
            }
        }
        let failing = async {
            let mut failed = Vec::new();
            while let Some(stream) = streams.join_next().await {
                if let Err(error) = stream? {
                    failed.push(error);
                }
            }
            Ok::<_, anyhow::Error>(failed)
        };
        let watching = async {
            shared.all_run.wait().await;
            gateway.rss_bytes()
        };
        let (rss_bytes, failed) = tokio::try_join!(watching, failing)?;
        Ok::<_, anyhow::Error>((rss_bytes, failed))
    };
    // Created inside the runtime, because the timeout uses its clock.
    let (rss_bytes, failed) =
        runtime.block_on(async { tokio::time::timeout(TIMEOUT, work).await }).with_context(|| {
            format!("at most {} streams were concurrent", shared.most.load(Ordering::Relaxed))
        })??;
    Ok(Ran { together: shared.most.load(Ordering::Relaxed), rss_bytes, failed })
}

async fn over_h1(shared: Arc<Shared>) -> Result<()> {
    let request = RawRequest::chat(256, Order::ModelFirst);
    let opening = shared.connecting.acquire().await?;
    let mut stream = TcpStream::connect(shared.address).await?;
    stream.write_all(&request.bytes).await?;
    let mut events = Events::default();
    let mut buffer = Vec::with_capacity(4 << 10);
    let mut opening = Some(opening);
    while !events.done {
        buffer.clear();
        ensure!(stream.read_buf(&mut buffer).await? > 0, "cut off after {} tokens", events.seen);
        if opening.take().is_some() {
            shared.began();
            shared.all_run.wait().await;
        }
        events.read(&buffer);
    }
    shared.ended(&events)
}

async fn connect_h2(address: SocketAddr) -> Result<http2::SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Ends when the last sender is dropped.
    tokio::spawn(driver);
    Ok(sender)
}

async fn over_h2(shared: Arc<Shared>, mut sender: http2::SendRequest<Full<Bytes>>) -> Result<()> {
    let request = RawRequest::chat(256, Order::ModelFirst).bytes;
    let body = request.split(|byte| *byte == b'\n').next_back().unwrap_or_default().to_vec();
    let request = Request::post(format!("http://{}/v1/chat/completions", shared.address))
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let opening = shared.connecting.acquire().await?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == 200, "unexpected status {}", response.status());
    let mut body = response.into_body();
    let mut events = Events::default();
    let mut opening = Some(opening);
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        if opening.take().is_some() {
            shared.began();
            shared.all_run.wait().await;
        }
        events.read(frame.data_ref().map_or(&[], |data| data));
    }
    shared.ended(&events)
}
