//! One reader's stream: a snapshot, deltas, heartbeats.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::board::{Board, Changes};
use crate::{
    kernel::boottime_ns,
    telemetry::{Delta, EndpointKey, Frame, frame::Body},
};

const DEFAULT_MIN_INTERVAL: Duration = Duration::from_millis(1);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(1);
/// A reader cannot ask for less or more than this.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// How often a reader wants to hear.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// Shortest time between two frames.
    pub min_interval: Duration,
    /// Longest silence.
    pub heartbeat: Duration,
}

impl WatchOptions {
    /// From a request's fields, where 0 takes the default.
    pub fn requested(min_interval_us: u32, heartbeat_ms: u32) -> Self {
        let or = |asked: Duration, default| if asked.is_zero() { default } else { asked };
        let heartbeat = or(Duration::from_millis(u64::from(heartbeat_ms)), DEFAULT_HEARTBEAT);
        let heartbeat = heartbeat.clamp(*HEARTBEATS.start(), *HEARTBEATS.end());
        let min_interval = or(Duration::from_micros(u64::from(min_interval_us)), DEFAULT_MIN_INTERVAL);
        Self { min_interval: min_interval.min(heartbeat), heartbeat }
    }
}

/// Frames for one reader. It is pulled: what changes while nobody pulls is merged.
#[derive(Debug)]
pub struct Subscription {
    board: Arc<Board>,
    changed: watch::Receiver<u64>,
    options: WatchOptions,
    epoch: u64,
    seq: u64,
    seen: u64,
    last_frame: Option<Instant>,
    endpoints: HashSet<EndpointKey>,
    gpu_uuids: HashSet<String>,
}

impl Subscription {
    pub fn new(board: Arc<Board>, epoch: u64, options: WatchOptions) -> Self {
        let changed = board.subscribe();
        Self {
            board,
            changed,
            options,
            epoch,
            seq: 0,
            seen: 0,
            last_frame: None,
            endpoints: HashSet::new(),
            gpu_uuids: HashSet::new(),
        }
    }

    /// The next frame, when it is due. Cancel safe.
    pub async fn next(&mut self) -> Frame {
        let Some(last_frame) = self.last_frame else {
            return self.snapshot();
        };
        let heartbeat_at = last_frame + self.options.heartbeat;
        loop {
            // The board outlives its subscriptions, so this cannot fail for long.
            match tokio::time::timeout_at(heartbeat_at, self.changed.changed()).await {
                Err(_elapsed) => return self.frame(Body::Heartbeat(self.board.heartbeat())),
                Ok(Err(_gone)) => tokio::time::sleep_until(heartbeat_at).await,
                Ok(Ok(())) => {}
            }
            tokio::time::sleep_until(last_frame + self.options.min_interval).await;
            self.changed.mark_unchanged();
            if let Some(delta) = self.delta() {
                return self.frame(Body::Delta(delta));
            }
        }
    }

    /// The last frame of a stream that the agent ends.
    pub fn goodbye(&mut self, reason: &str) -> Frame {
        self.frame(Body::Goodbye(crate::telemetry::Goodbye { reason: reason.into() }))
    }

    fn snapshot(&mut self) -> Frame {
        self.changed.mark_unchanged();
        let (snapshot, version) = self.board.snapshot();
        self.seen = version;
        self.endpoints = snapshot.endpoints.iter().filter_map(|endpoint| endpoint.key.clone()).collect();
        self.gpu_uuids = snapshot.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        self.frame(Body::Snapshot(snapshot))
    }

    fn delta(&mut self) -> Option<Delta> {
        let Changes { mut delta, members, version } = self.board.changes(self.seen);
        self.seen = version;
        if let Some(members) = members {
            let endpoints: HashSet<EndpointKey> = members.endpoints.into_iter().collect();
            let gpu_uuids: HashSet<String> = members.gpu_uuids.into_iter().collect();
            delta.removed_endpoints = self.endpoints.difference(&endpoints).cloned().collect();
            delta.removed_gpu_uuids = self.gpu_uuids.difference(&gpu_uuids).cloned().collect();
            self.endpoints = endpoints;
            self.gpu_uuids = gpu_uuids;
        }
        (delta != Delta::default()).then_some(delta)
    }

    fn frame(&mut self, body: Body) -> Frame {
        self.seq += 1;
        self.last_frame = Some(Instant::now());
        Frame { epoch: self.epoch, seq: self.seq, sent_boottime_ns: boottime_ns(), body: Some(body) }
    }
}
