//! Reads the telemetry stream of an agent.
//!
//! [`watch`] keeps one stream open: it connects, checks the sequence of frames, and reconnects with exponential backoff
//! and jitter after any error. [`Replica`](crate::Replica) applies the frames.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tokio::time;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::v1::{Frame, WatchRequest, frame::Body, telemetry_client::TelemetryClient};
use forebay_service::tls::{self, AGENT_NAME, Identity};

/// A stream without a frame for this many heartbeats is closed, and its values are stale.
pub const STALE_HEARTBEATS: u32 = 3;

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds of the pause before a reconnect.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Maximum frame. A snapshot of a node with thousands of endpoints is far smaller.
pub(crate) const MAX_FRAME_BYTES: usize = 16 << 20;

/// Options of a stream.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Name of the reader in the agent's log.
    pub subscriber: String,
    /// Shortest time between two frames. Zero selects the agent's default.
    pub min_interval: Duration,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Whether the agent also sends latency histograms.
    pub latencies: bool,
    /// Client identity for TLS. Plain text without.
    pub tls: Option<Arc<Identity>>,
}

impl WatchOptions {
    /// How long a value may be used after it was last confirmed.
    pub fn stale_after(&self) -> Duration {
        self.heartbeat * STALE_HEARTBEATS
    }
}

/// What [`watch`] reports.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all events are frames")]
pub enum Event {
    /// The next frame in sequence. The first frame of every stream is a snapshot.
    Frame(Received),
    /// The stream ended. A new one is opened after `retry_in`.
    Down {
        /// Why it ended.
        reason: Error,
        /// The pause before the reconnect.
        retry_in: Duration,
    },
}

/// A frame and its time of arrival.
#[derive(Clone, Debug)]
pub struct Received {
    /// The frame.
    pub frame: Frame,
    /// When it arrived.
    pub at: Instant,
}

impl Received {
    /// Converts a boot time of the agent's node to this machine's clock: the arrival of the frame minus the age when the
    /// frame was sent. Transit time is ignored. `None` if this clock cannot express it.
    pub fn local_time(&self, boottime_ns: u64) -> Option<Instant> {
        let age = Duration::from_nanos(self.frame.sent_boottime_ns.saturating_sub(boottime_ns));
        self.at.checked_sub(age)
    }
}

/// Why a stream ended. All errors are retried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or no TLS.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// A gRPC status.
    #[error("stream failed: {}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    /// No stream within the timeout.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// No frame within [`WatchOptions::stale_after`].
    #[error("no frame for {0:?}")]
    Silent(Duration),
    /// The first frame was not a snapshot.
    #[error("first frame is not a snapshot")]
    NoSnapshot,
    /// A sequence number was skipped.
    #[error("frame {got} followed frame {after}")]
    Gap {
        /// Last sequence number.
        after: u64,
        /// Sequence number received.
        got: u64,
    },
    /// The epoch changed.
    #[error("epoch changed within a stream")]
    Epoch,
    /// The agent shuts down.
    #[error("agent closed the stream: {0}")]
    Goodbye(String),
    /// The stream ended without a goodbye.
    #[error("agent ended the stream")]
    Ended,
    /// The agent has no such stream.
    #[error("the agent is older than this client and has no stream of requests: update the agent")]
    Unsupported,
}

impl From<tonic::transport::Error> for Error {
    /// Takes the last error of the chain: the transport's own text is always the same.
    fn from(error: tonic::transport::Error) -> Self {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Self::Connect(cause.to_string())
    }
}

/// Watches the agent at `address` until the future is dropped. Calls `on_event` in order. It must not block.
pub async fn watch(
    address: SocketAddr,
    options: &WatchOptions,
    mut on_event: impl FnMut(Event),
) -> Infallible {
    let mut pauses = Pauses::default();
    loop {
        let mut got_snapshot = false;
        let result = read_stream(address, options, |received| {
            got_snapshot = true;
            on_event(Event::Frame(received));
        })
        .await;
        let Err(reason) = result;
        if got_snapshot {
            pauses = Pauses::default();
        }
        let retry_in = pauses.lengthen();
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
    let channel = connect(address, options.tls.clone()).await?;
    let request = WatchRequest {
        subscriber: options.subscriber.clone(),
        min_interval_us: options.min_interval.as_micros().try_into().unwrap_or(u32::MAX),
        heartbeat_ms: options.heartbeat.as_millis().try_into().unwrap_or(u32::MAX),
        latencies: options.latencies,
    };
    let mut client = TelemetryClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
    Ok(client.watch(request).await?.into_inner())
}

pub(crate) async fn connect(address: SocketAddr, identity: Option<Arc<Identity>>) -> Result<Channel, Error> {
    let dial = tower::service_fn(move |_uri: http::Uri| {
        let identity = identity.clone();
        async move { tls::connect(address, identity.as_deref(), AGENT_NAME).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .connect_with_connector(dial)
        .await?)
}

/// Checks that a stream starts with a snapshot and has no gaps.
#[derive(Default)]
struct Order {
    last: Option<(u64, u64)>,
}

impl Order {
    fn check(&mut self, frame: &Frame) -> Result<(), Error> {
        match self.last {
            // An agent that is shutting down sends a goodbye instead.
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

/// Exponential backoff with jitter, so that the readers of a restarted agent do not reconnect at the same moment.
#[derive(Debug)]
pub struct Pauses {
    ceiling: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { ceiling: MIN_PAUSE }
    }
}

impl Pauses {
    /// The pause before the next attempt.
    pub fn lengthen(&mut self) -> Duration {
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
    fn rejects_streams_without_snapshot_or_with_gaps() {
        let heartbeat = || Body::Heartbeat(Heartbeat::default());
        let mut order = Order::default();
        assert!(matches!(order.check(&frame(1, 1, heartbeat())), Err(Error::NoSnapshot)));
        order.check(&frame(1, 1, Body::Snapshot(Snapshot::default()))).unwrap();
        order.check(&frame(1, 2, heartbeat())).unwrap();
        assert!(matches!(order.check(&frame(1, 4, heartbeat())), Err(Error::Gap { after: 2, got: 4 })));
        assert!(matches!(order.check(&frame(2, 3, heartbeat())), Err(Error::Epoch)));
    }

    #[test]
    fn pauses_grow_up_to_the_maximum() {
        let mut pauses = Pauses::default();
        let all: Vec<Duration> = (0..20).map(|_| pauses.lengthen()).collect();
        assert!(
            all[0] <= MIN_PAUSE && all.iter().all(|pause| *pause >= MIN_PAUSE / 2 && *pause <= MAX_PAUSE)
        );
        assert!(all[19] >= MAX_PAUSE / 2);
    }

    #[test]
    fn local_time_subtracts_the_age_at_sending() {
        let received =
            Received { frame: frame(1, 1, Body::Snapshot(Snapshot::default())), at: Instant::now() };
        let age = |boottime_ns| received.at - received.local_time(boottime_ns).unwrap();
        assert_eq!(age(999_000_000), Duration::from_millis(1));
        assert_eq!(age(0), Duration::from_secs(1));
        assert_eq!(age(2_000_000_000), Duration::ZERO, "a time in the future counts as the time of sending");
    }
}
