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
    cell::{Order, Sent},
    events::Events,
    peers::Peers,
    report::{Section, kib, say},
    upstream::{Answer, Upstream},
};

const OVER_H1: u32 = 5000;
const H2_CONNECTIONS: u32 = 10;
const STREAMS_PER_H2_CONNECTION: u32 = 500;
const STREAMS: u32 = OVER_H1 + H2_CONNECTIONS * STREAMS_PER_H2_CONNECTION;
/// Dials at one time.
const OPENING: usize = 64;
const TOKENS: u32 = 30;
const INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(300);

/// What all streams have in common.
#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    running: AtomicU32,
    most: AtomicU32,
    opening: tokio::sync::Semaphore,
    /// Nobody ends before all have begun.
    all_run: Barrier,
}

impl Shared {
    fn began(&self) {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(running, Ordering::Relaxed);
    }

    fn ended(&self, events: &Events) -> Result<()> {
        self.running.fetch_sub(1, Ordering::Relaxed);
        ensure!(events.done && events.seen == TOKENS, "{} of {TOKENS} tokens came", events.seen);
        Ok(())
    }
}

pub(crate) fn measure() -> Result<Section> {
    say(&format!("many: {STREAMS} streams"));
    let upstream = Upstream::start(Answer::Stream { tokens: TOKENS, interval: INTERVAL })?;
    let peers = Peers::forebay(upstream.address.port())?;
    let gateway = &peers.all[0];
    let before = gateway.rss_bytes()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::new(Shared {
        address: gateway.address,
        running: AtomicU32::new(0),
        most: AtomicU32::new(0),
        opening: tokio::sync::Semaphore::new(OPENING),
        all_run: Barrier::new(STREAMS as usize + 1),
    });
    let work = async {
        let mut streams = JoinSet::new();
        for _ in 0..OVER_H1 {
            streams.spawn(over_h1(shared.clone()));
        }
        for _ in 0..H2_CONNECTIONS {
            let connection = connect_h2(shared.address).await?;
            for _ in 0..STREAMS_PER_H2_CONNECTION {
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
        let (rss, failed) = tokio::try_join!(watching, failing)?;
        Ok::<_, anyhow::Error>((rss, failed))
    };
    // The clock of the timeout is the runtime's.
    let (rss, failed) = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, work).await })
        .with_context(|| format!("{} streams ran at most", shared.most.load(Ordering::Relaxed)))??;
    let mut section = Section::new(format!(
        "{STREAMS} streams at one time, {OVER_H1} over HTTP/1.1 and the rest over HTTP/2"
    ));
    section.line(format!(
        "ran together: {}; failed: {}; memory: {:.1} KiB a stream",
        shared.most.load(Ordering::Relaxed),
        failed.len(),
        kib(rss.saturating_sub(before)) / f64::from(STREAMS)
    ));
    match failed.into_iter().next() {
        None => Ok(section),
        Some(first) => Err(first.context("a stream failed")),
    }
}

async fn over_h1(shared: Arc<Shared>) -> Result<()> {
    let sent = Sent::chat(256, Order::ModelFirst);
    let opening = shared.opening.acquire().await?;
    let mut stream = TcpStream::connect(shared.address).await?;
    stream.write_all(&sent.bytes).await?;
    let mut events = Events::default();
    let mut buffer = Vec::with_capacity(4 << 10);
    let mut opening = Some(opening);
    while !events.done {
        buffer.clear();
        ensure!(stream.read_buf(&mut buffer).await? > 0, "broke off after {} tokens", events.seen);
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
    // Ends with its last sender.
    tokio::spawn(driver);
    Ok(sender)
}

async fn over_h2(shared: Arc<Shared>, mut sender: http2::SendRequest<Full<Bytes>>) -> Result<()> {
    let sent = Sent::chat(256, Order::ModelFirst).bytes;
    let body = sent.split(|byte| *byte == b'\n').next_back().unwrap_or_default().to_vec();
    let request = Request::post(format!("http://{}/v1/chat/completions", shared.address))
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let opening = shared.opening.acquire().await?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == 200, "answered with {}", response.status());
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
