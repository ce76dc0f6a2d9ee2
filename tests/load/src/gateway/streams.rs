//! 1,000 streams at 50 tokens per second each: time between tokens and memory per stream.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    events::Events,
    proxies::Proxies,
    request::{Order, RawRequest},
    upstream::{ResponseKind, Upstream},
};
use forebay_bench::report::{Section, kib, milliseconds, quantile, say};
use forebay_bench::usage;

const STREAMS: u32 = 1000;
const TOKENS_PER_SECOND: u32 = 50;
/// Period over which the starts of the streams are spread.
const RAMP: Duration = Duration::from_secs(1);

pub(crate) fn measure(duration: Duration) -> Result<Section> {
    let interval = Duration::from_secs(1) / TOKENS_PER_SECOND;
    // Long enough that all streams run concurrently for `duration`.
    let tokens = TOKENS_PER_SECOND * (duration + 2 * RAMP).as_secs() as u32;
    let upstream = Upstream::start(ResponseKind::Stream { tokens, interval })?;
    let proxies = Proxies::forebay(upstream.address.port())?;
    let gateway = &proxies.all[0];
    let before = gateway.rss_bytes()?;
    let mut section = Section::new(format!(
        "{STREAMS} streams at {TOKENS_PER_SECOND} tokens/s each, {tokens} tokens per stream: time between tokens"
    ));
    section.line(format!(
        "{:<10}{:>9}{:>9}{:>9}{:>9}{:>12}{:>14}",
        "path", "mean ms", "p50 ms", "p99 ms", "tokens", "client core", "gateway core"
    ));
    let mut means = Vec::new();
    let mut grown = 0;
    for (name, address) in [("direct", upstream.address), ("gateway", gateway.target.address)] {
        say(&format!("streams: {name}"));
        let cpu_before = gateway.cpu()?;
        let began = Instant::now();
        let cpu = usage::of_this_thread();
        let mut rss = before;
        let all = run(address, tokens, || {
            rss = rss.max(gateway.rss_bytes()?);
            Ok(())
        })?;
        let wall = began.elapsed().as_secs_f64();
        let client = usage::of_this_thread().saturating_sub(cpu).as_secs_f64() / wall;
        let gateway_core = (gateway.cpu()? - cpu_before).total().as_secs_f64() / wall;
        let mean = milliseconds(all.gaps.iter().sum::<Duration>()) / all.gaps.len() as f64;
        means.push(mean);
        grown = rss.saturating_sub(before);
        section.line(format!(
            "{name:<10}{mean:>9.3}{:>9.3}{:>9.3}{:>9}{client:>12.2}{gateway_core:>14.2}",
            milliseconds(quantile(&all.gaps, 0.5)),
            milliseconds(quantile(&all.gaps, 0.99)),
            all.tokens,
        ));
    }
    section.line(format!(
        "mean gap through the gateway: {:.3} of direct; memory: {:.1} KiB per stream",
        means[1] / means[0],
        kib(grown) / f64::from(STREAMS)
    ));
    Ok(section)
}

struct Gaps {
    /// Sorted.
    gaps: Vec<Duration>,
    tokens: u64,
}

/// Runs all streams. `halfway` is called while all of them are running.
fn run(address: SocketAddr, tokens: u32, mut halfway: impl FnMut() -> Result<()>) -> Result<Gaps> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = RawRequest::chat(256, Order::ModelFirst).bytes;
    runtime.block_on(async {
        let mut streams = JoinSet::new();
        for stream in 0..STREAMS {
            let request = request.clone();
            streams.spawn(async move {
                tokio::time::sleep(RAMP * stream / STREAMS).await;
                one(address, &request, tokens).await
            });
        }
        tokio::time::sleep(RAMP + Duration::from_secs(1)).await;
        halfway()?;
        let mut all = Gaps { gaps: Vec::new(), tokens: 0 };
        while let Some(stream) = streams.join_next().await {
            let gaps = stream??;
            all.tokens += gaps.len() as u64 + 1;
            all.gaps.extend(gaps);
        }
        all.gaps.sort_unstable();
        Ok(all)
    })
}

async fn one(address: SocketAddr, request: &[u8], tokens: u32) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await?;
    let mut gaps = Vec::with_capacity(tokens as usize);
    let mut last: Option<Instant> = None;
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut events = Events::default();
    while !events.done {
        buffer.clear();
        ensure!(
            stream.read_buf(&mut buffer).await? > 0,
            "the stream was cut off after {} tokens",
            events.seen
        );
        let now = Instant::now();
        for _ in 0..events.read(&buffer) {
            if let Some(last) = last.replace(now) {
                gaps.push(now.duration_since(last));
            }
        }
    }
    ensure!(events.seen == tokens, "received {} of {tokens} tokens", events.seen);
    Ok(gaps)
}
