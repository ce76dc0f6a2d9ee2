//! One reader's stream: a snapshot, deltas, heartbeats.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::board::{Board, Changes};
use crate::kernel::boottime_ns;
use forebay_telemetry::v1::{Delta, EndpointKey, Frame, frame::Body};

const DEFAULT_MIN_INTERVAL: Duration = Duration::from_millis(1);
/// So many frames may follow each other at once before the interval holds them back:
/// a single change is never late, a storm of them is merged.
const BURST: u32 = 8;
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(1);
/// A reader cannot ask for less or more than this.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// How often a reader wants to hear.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// Shortest time between two frames, over more than a few of them.
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
    /// Set once the snapshot is sent: where the frames so far would end if each had
    /// kept its interval. Ahead of the present, it is what the burst has used up.
    paced_until: Option<Instant>,
    /// Of its own clock: deltas say nothing of what did not change.
    last_heartbeat: Instant,
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
            paced_until: None,
            last_heartbeat: Instant::now(),
            endpoints: HashSet::new(),
            gpu_uuids: HashSet::new(),
        }
    }

    /// The next frame, when it is due. Cancel safe.
    pub async fn next(&mut self) -> Frame {
        let Some(paced_until) = self.paced_until else {
            return self.snapshot();
        };
        let heartbeat_at = self.last_heartbeat + self.options.heartbeat;
        loop {
            if Instant::now() >= heartbeat_at {
                self.last_heartbeat = Instant::now();
                return self.frame(Body::Heartbeat(self.board.heartbeat()));
            }
            match tokio::time::timeout_at(heartbeat_at, self.changed.changed()).await {
                Err(_elapsed) => continue,
                // The board outlives its subscriptions, so this is not for long.
                Ok(Err(_gone)) => tokio::time::sleep_until(heartbeat_at).await,
                Ok(Ok(())) => {}
            }
            let earliest = paced_until.checked_sub(self.options.min_interval * (BURST - 1));
            tokio::time::sleep_until(earliest.unwrap_or(paced_until)).await;
            self.changed.mark_unchanged();
            if let Some(delta) = self.delta() {
                return self.frame(Body::Delta(delta));
            }
        }
    }

    /// The last frame of a stream that the agent ends.
    pub fn goodbye(&mut self, reason: &str) -> Frame {
        self.frame(Body::Goodbye(forebay_telemetry::v1::Goodbye { reason: reason.into() }))
    }

    fn snapshot(&mut self) -> Frame {
        self.last_heartbeat = Instant::now();
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
        let now = Instant::now();
        let paced_until = self.paced_until.map_or(now, |until| until.max(now));
        self.paced_until = Some(paced_until + self.options.min_interval);
        Frame { epoch: self.epoch, seq: self.seq, sent_boottime_ns: boottime_ns(), body: Some(body) }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use super::*;
    use crate::publish::Reading;
    use forebay_telemetry::v1::{Gpu, KernelLoad, Node};

    const ADDRESS: &str = "10.0.0.1:8000";

    fn board() -> Arc<Board> {
        let board = Arc::new(Board::new(Node { name: "n".into(), ..Node::default() }));
        board.set_endpoints(members(&[ADDRESS]));
        board
    }

    fn members(addresses: &[&str]) -> BTreeMap<SocketAddr, EndpointKey> {
        addresses
            .iter()
            .map(|address| {
                let address: SocketAddr = address.parse().unwrap();
                let key = EndpointKey {
                    ip: address.ip().to_string(),
                    port: address.port().into(),
                    ..EndpointKey::default()
                };
                (address, key)
            })
            .collect()
    }

    fn load(in_flight: u64, measured_boottime_ns: u64) -> Reading<KernelLoad> {
        Reading::On(KernelLoad { in_flight, measured_boottime_ns, ..KernelLoad::default() })
    }

    fn subscribe(board: &Arc<Board>, heartbeat_ms: u32) -> Subscription {
        Subscription::new(Arc::clone(board), 7, WatchOptions::requested(0, heartbeat_ms))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_a_snapshot_then_what_changes_then_heartbeats() {
        let board = board();
        let address = ADDRESS.parse().unwrap();
        let mut subscription = subscribe(&board, 1000);
        let first = subscription.next().await;
        assert_eq!((first.epoch, first.seq), (7, 1));
        assert!(matches!(first.body, Some(Body::Snapshot(snapshot)) if snapshot.endpoints.len() == 1));

        board.set_kernel(address, "", load(1, 10));
        let Some(Body::Delta(delta)) = subscription.next().await.body else { panic!("no delta") };
        assert_eq!(delta.endpoints[0].kernel.unwrap().in_flight, 1);

        // The same again, only measured later, is no change.
        board.set_kernel(address, "", load(1, 20));
        board.confirm_kernel(20);
        let beat = subscription.next().await;
        assert_eq!(beat.seq, 3);
        let Some(Body::Heartbeat(heartbeat)) = beat.body else { panic!("no heartbeat") };
        assert_eq!(heartbeat.kernel_measured_boottime_ns, Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_the_newest_values_once() {
        let board = board();
        let mut subscription = subscribe(&board, 1000);
        subscription.next().await;
        for in_flight in 1..=100 {
            board.set_kernel(ADDRESS.parse().unwrap(), "", load(in_flight, in_flight));
        }
        let Some(Body::Delta(delta)) = subscription.next().await.body else { panic!("no delta") };
        assert_eq!(delta.endpoints[0].kernel.unwrap().in_flight, 100);
        assert!(matches!(subscription.next().await.body, Some(Body::Heartbeat(_))));
    }

    #[test]
    fn what_was_measured_of_a_pod_is_not_told_of_its_successor() {
        let board = board();
        let address = ADDRESS.parse().unwrap();
        board.set_kernel(address, "", load(3, 10));
        let mut next = members(&[ADDRESS]);
        next.values_mut().for_each(|key| key.uid = "next".into());
        board.set_endpoints(next);
        board.set_kernel(address, "", load(4, 20));
        assert_eq!(board.snapshot().0.endpoints[0].kernel, None);
        board.set_kernel(address, "next", load(1, 30));
        assert_eq!(board.snapshot().0.endpoints[0].kernel.unwrap().in_flight, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_changes_go_at_once_and_a_storm_keeps_the_interval() {
        let board = board();
        let mut subscription = subscribe(&board, 60_000);
        subscription.next().await;
        let started = Instant::now();
        let mut sent = Vec::new();
        for in_flight in 1..=100 {
            board.set_kernel(ADDRESS.parse().unwrap(), "", load(in_flight, in_flight));
            subscription.next().await;
            sent.push(started.elapsed());
        }
        assert_eq!(sent[BURST as usize - 2], Duration::ZERO, "{sent:?}");
        assert!(sent[99] >= DEFAULT_MIN_INTERVAL * (100 - BURST), "{:?}", sent[99]);
    }

    #[tokio::test(start_paused = true)]
    async fn deltas_do_not_put_heartbeats_off() {
        let board = board();
        let mut subscription = subscribe(&board, 1000);
        subscription.next().await;
        let started = Instant::now();
        let mut heartbeats = 0;
        for in_flight in 1.. {
            board.set_kernel(ADDRESS.parse().unwrap(), "", load(in_flight, in_flight));
            if matches!(subscription.next().await.body, Some(Body::Heartbeat(_))) {
                heartbeats += 1;
            }
            tokio::time::advance(Duration::from_millis(10)).await;
            if started.elapsed() > Duration::from_secs(5) {
                break;
            }
        }
        assert!(heartbeats >= 4, "{heartbeats} heartbeats in five seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_said() {
        let board = board();
        let gpu = Gpu { uuid: "GPU-1".into(), ..Gpu::default() };
        board.set_gpus(vec![gpu], &BTreeMap::new(), Some(1));
        let mut subscription = subscribe(&board, 1000);
        subscription.next().await;
        board.set_endpoints(members(&["10.0.0.2:8000"]));
        // As many as before, but another.
        let other = Gpu { uuid: "GPU-2".into(), ..Gpu::default() };
        board.set_gpus(vec![other], &BTreeMap::new(), Some(2));
        let Some(Body::Delta(delta)) = subscription.next().await.body else { panic!("no delta") };
        assert_eq!(delta.removed_endpoints[0].ip, "10.0.0.1");
        assert_eq!(delta.removed_gpu_uuids, ["GPU-1"]);
        assert_eq!(delta.endpoints[0].key.as_ref().unwrap().ip, "10.0.0.2");
    }
}
