//! Reads the requests that end on a node, one by one.
//!
//! A [`RequestStream`] is one stream without a reconnect: requests that end between two streams are not known, and only
//! its reader can say so.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;
use tonic::{Code, Streaming};

use crate::{
    client::{CONNECT_TIMEOUT, Error, MAX_FRAME_BYTES, STALE_HEARTBEATS, connect},
    v1::{RequestFilter, RequestFrame, WatchRequestsRequest, telemetry_client::TelemetryClient},
};
use forebay_service::tls::Identity;

/// Requests per second of a stream that asks for no other number.
pub const DEFAULT_PER_SECOND: u32 = 1_000;
/// Maximum requests per second that a stream can ask for.
pub const MAX_PER_SECOND: u32 = 10_000;

/// Longest time between two frames of an agent that works.
const FRAME_INTERVAL: Duration = Duration::from_secs(1);

/// Options of a stream.
#[derive(Clone, Debug, Default)]
pub struct RequestOptions {
    /// Name of the reader in the agent's log.
    pub subscriber: String,
    /// Requests per second, on average. 0 selects the agent's default.
    pub max_per_second: u32,
    /// Which requests.
    pub filter: RequestFilter,
    /// Client identity for TLS. Plain text without.
    pub tls: Option<Arc<Identity>>,
}

/// An open stream.
#[derive(Debug)]
pub struct RequestStream {
    frames: Streaming<RequestFrame>,
}

/// A frame and its time of arrival.
#[derive(Clone, Debug)]
pub struct ReceivedRequests {
    /// The frame.
    pub frame: RequestFrame,
    /// When it arrived.
    pub at: Instant,
}

impl RequestStream {
    /// Connects to the agent at `address`.
    ///
    /// # Errors
    /// If there is no connection, or the agent rejects the options or has no such stream.
    pub async fn open(address: SocketAddr, options: &RequestOptions) -> Result<Self, Error> {
        let opening = time::timeout(CONNECT_TIMEOUT, open(address, options));
        let frames = opening.await.map_err(|_| Error::Timeout(CONNECT_TIMEOUT))??;
        Ok(Self { frames })
    }

    /// The next frame. Requests that are not taken in time are dropped by the agent and counted in
    /// [`RequestFrame::dropped`].
    ///
    /// # Errors
    /// If the stream ended, or was silent for three seconds.
    pub async fn next(&mut self) -> Result<ReceivedRequests, Error> {
        let silence = FRAME_INTERVAL * STALE_HEARTBEATS;
        let next = time::timeout(silence, self.frames.message()).await.map_err(|_| Error::Silent(silence))?;
        Ok(ReceivedRequests { frame: next?.ok_or(Error::Ended)?, at: Instant::now() })
    }
}

impl ReceivedRequests {
    /// How long ago a boot time of the node was when the frame was sent.
    pub fn age_at_sending(&self, boottime_ns: u64) -> Duration {
        Duration::from_nanos(self.frame.sent_boottime_ns.saturating_sub(boottime_ns))
    }
}

async fn open(address: SocketAddr, options: &RequestOptions) -> Result<Streaming<RequestFrame>, Error> {
    let channel = connect(address, options.tls.clone()).await?;
    let request = WatchRequestsRequest {
        subscriber: options.subscriber.clone(),
        max_per_second: options.max_per_second,
        filter: Some(options.filter.clone()),
    };
    let mut client = TelemetryClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
    match client.watch_requests(request).await {
        Ok(frames) => Ok(frames.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => Err(Error::Unsupported),
        Err(status) => Err(status.into()),
    }
}
