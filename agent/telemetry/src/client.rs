//! Reads an agent's telemetry stream, for as long as somebody wants it.
//!
//! [`watch`] keeps one stream open: it dials, checks that frames follow each
//! other, and dials again with a jittered, growing pause when they do not. What
//! a frame means for old values is the reader's business; that it is whole and
//! in order is settled here.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tokio::time;
use tonic::{Status, Streaming, transport::Endpoint};

use crate::v1::{Frame, WatchRequest, frame::Body, telemetry_client::TelemetryClient};
use forebay_service::tls::{self, AGENT_NAME, Identity};

/// A stream without a frame for this many heartbeats is dead, and what it said
/// is stale.
pub const STALE_HEARTBEATS: u32 = 3;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A snapshot of a node with thousands of endpoints is far smaller.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// What a reader asks an agent for.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Names the reader in the agent's logs.
    pub subscriber: String,
    /// Shortest time between two frames; zero takes the agent's default.
    pub min_interval: Duration,
    /// Longest silence of a healthy agent.
    pub heartbeat: Duration,
    /// To dial with TLS; plain text without.
    pub tls: Option<Arc<Identity>>,
}

impl WatchOptions {
    /// How long a value may be used after it was last known to hold.
    pub fn stale_after(&self) -> Duration {
        self.heartbeat * STALE_HEARTBEATS
    }
}

#[derive(Debug)]
pub enum Event {
    /// The next frame in order; the first of every stream is a snapshot.
    Frame(Received),
    /// The stream has ended and will be dialled again.
    Down { reason: Error, retry_in: Duration },
}

/// A frame and the moment it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub frame: Frame,
    pub at: Instant,
}

impl Received {
    /// A boot time of the agent's node on this machine's clock: the age it had
    /// when the frame was sent, before the frame's arrival. The frame's time on
    /// the way is not in it. `None` is older than this clock can say.
    pub fn local_time(&self, boottime_ns: u64) -> Option<Instant> {
        let age = Duration::from_nanos(self.frame.sent_boottime_ns.saturating_sub(boottime_ns));
        self.at.checked_sub(age)
    }
}

/// Why a stream ended. All of them are retried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the agent refused or broke the stream: {}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("no frame for {0:?}")]
    Silent(Duration),
    #[error("the first frame is no snapshot")]
    NoSnapshot,
    #[error("frame {got} came after frame {after}")]
    Gap { after: u64, got: u64 },
    #[error("the epoch changed within a stream")]
    Epoch,
    #[error("the agent says goodbye: {0}")]
    Goodbye(String),
    #[error("the agent ended the stream")]
    Ended,
}

impl From<tonic::transport::Error> for Error {
    /// The transport's own text is always the same; what happened is at the end
    /// of the chain.
    fn from(error: tonic::transport::Error) -> Self {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Self::Connect(cause.to_string())
    }
}

/// Watches the agent at `address` until the future is dropped. `on_event` is
/// called in order and must not block.
pub async fn watch(
    address: SocketAddr,
    options: &WatchOptions,
    mut on_event: impl FnMut(Event),
) -> Infallible {
    let mut pauses = Pauses::new();
    loop {
        let mut got_snapshot = false;
        let result = read_stream(address, options, |received| {
            got_snapshot = true;
            on_event(Event::Frame(received));
        })
        .await;
        let Err(reason) = result;
        if got_snapshot {
            pauses = Pauses::new();
        }
        let retry_in = pauses.next();
        on_event(Event::Down { reason, retry_in });
        time::sleep(retry_in).await;
    }
}

async fn read_stream(
    address: SocketAddr,
    options: &WatchOptions,
    mut on_frame: impl FnMut(Received),
) -> Result<Infallible, Error> {
    let connecting = time::timeout(CONNECT_TIMEOUT, open(address, options));
    let mut frames = connecting.await.map_err(|_| Error::Timeout(CONNECT_TIMEOUT))??;
    let silence = options.stale_after();
    let mut order = Order::default();
    loop {
        let next = time::timeout(silence, frames.message()).await.map_err(|_| Error::Silent(silence))?;
        let frame = next?.ok_or(Error::Ended)?;
        order.check(&frame)?;
        if let Some(Body::Goodbye(goodbye)) = frame.body {
            return Err(Error::Goodbye(goodbye.reason));
        }
        on_frame(Received { frame, at: Instant::now() });
    }
}

async fn open(address: SocketAddr, options: &WatchOptions) -> Result<Streaming<Frame>, Error> {
    let identity = options.tls.clone();
    let dial = tower::service_fn(move |_uri: http::Uri| {
        let identity = identity.clone();
        async move { tls::connect(address, identity.as_deref(), AGENT_NAME).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .connect_with_connector(dial)
        .await?;
    let request = WatchRequest {
        subscriber: options.subscriber.clone(),
        min_interval_us: options.min_interval.as_micros().try_into().unwrap_or(u32::MAX),
        heartbeat_ms: options.heartbeat.as_millis().try_into().unwrap_or(u32::MAX),
    };
    let mut client = TelemetryClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
    Ok(client.watch(request).await?.into_inner())
}

/// Checks that a stream begins with a snapshot and has no gaps.
#[derive(Default)]
struct Order {
    last: Option<(u64, u64)>,
}

impl Order {
    fn check(&mut self, frame: &Frame) -> Result<(), Error> {
        match self.last {
            // An agent that shuts down at this moment may say so at once.
            None if !matches!(frame.body, Some(Body::Snapshot(_) | Body::Goodbye(_))) => {
                return Err(Error::NoSnapshot);
            }
            Some((epoch, _)) if epoch != frame.epoch => return Err(Error::Epoch),
            Some((_, seq)) if frame.seq != seq + 1 => return Err(Error::Gap { after: seq, got: frame.seq }),
            _ => {}
        }
        self.last = Some((frame.epoch, frame.seq));
        Ok(())
    }
}

/// Doubling pauses, each cut to a random part of itself so that the readers of
/// a restarted agent do not come back all at once.
struct Pauses {
    ceiling: Duration,
}

impl Pauses {
    fn new() -> Self {
        Self { ceiling: MIN_PAUSE }
    }

    fn next(&mut self) -> Duration {
        let pause = self.ceiling.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.ceiling = (self.ceiling * 2).min(MAX_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Heartbeat, Snapshot};

    fn frame(epoch: u64, seq: u64, body: Body) -> Frame {
        Frame { epoch, seq, sent_boottime_ns: 1_000_000_000, body: Some(body) }
    }

    #[test]
    fn frames_must_begin_with_a_snapshot_and_follow_each_other() {
        let heartbeat = || Body::Heartbeat(Heartbeat::default());
        let mut order = Order::default();
        assert!(matches!(order.check(&frame(1, 1, heartbeat())), Err(Error::NoSnapshot)));
        order.check(&frame(1, 1, Body::Snapshot(Snapshot::default()))).unwrap();
        order.check(&frame(1, 2, heartbeat())).unwrap();
        assert!(matches!(order.check(&frame(1, 4, heartbeat())), Err(Error::Gap { after: 2, got: 4 })));
        assert!(matches!(order.check(&frame(2, 3, heartbeat())), Err(Error::Epoch)));
    }

    #[test]
    fn pauses_grow_to_a_ceiling_and_never_vanish() {
        let mut pauses = Pauses::new();
        let all: Vec<Duration> = (0..20).map(|_| pauses.next()).collect();
        assert!(
            all[0] <= MIN_PAUSE && all.iter().all(|pause| *pause >= MIN_PAUSE / 2 && *pause <= MAX_PAUSE)
        );
        assert!(all[19] >= MAX_PAUSE / 2);
    }

    #[test]
    fn a_measurement_is_as_old_as_it_was_when_it_was_sent() {
        let received =
            Received { frame: frame(1, 1, Body::Snapshot(Snapshot::default())), at: Instant::now() };
        let age = |boottime_ns| received.at - received.local_time(boottime_ns).unwrap();
        assert_eq!(age(999_000_000), Duration::from_millis(1));
        assert_eq!(age(0), Duration::from_secs(1));
        assert_eq!(age(2_000_000_000), Duration::ZERO, "from the future: as new as the frame");
    }
}
