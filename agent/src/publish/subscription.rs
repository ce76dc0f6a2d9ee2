//! The frames for one reader: a snapshot, deltas, heartbeats.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::publisher::{Changes, Publisher};
use crate::kernel::boottime_ns;
use forebay_telemetry::v1::{Delta, EndpointKey, Frame, frame::Body};

const DEFAULT_MIN_INTERVAL: Duration = Duration::from_millis(1);
/// Frames that may be sent without a pause before the interval applies: single changes are never delayed, many changes
/// are merged.
const BURST: u32 = 8;
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(1);
/// Accepted heartbeat intervals.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// The intervals of a stream.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// Shortest time between two frames, averaged over [`BURST`] frames.
    pub min_interval: Duration,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Whether the frames have latency histograms.
    pub latencies: bool,
}

impl WatchOptions {
    /// From the fields of a request. 0 selects the default.
    pub fn requested(min_interval_us: u32, heartbeat_ms: u32) -> Self {
        let or = |asked: Duration, default| if asked.is_zero() { default } else { asked };
        let heartbeat = or(Duration::from_millis(u64::from(heartbeat_ms)), DEFAULT_HEARTBEAT);
        let heartbeat = heartbeat.clamp(*HEARTBEATS.start(), *HEARTBEATS.end());
        let min_interval = or(Duration::from_micros(u64::from(min_interval_us)), DEFAULT_MIN_INTERVAL);
        Self { min_interval: min_interval.min(heartbeat), heartbeat, latencies: false }
    }

    /// With latency histograms, or without.
    pub fn with_latencies(self, latencies: bool) -> Self {
        Self { latencies, ..self }
    }
}

/// Frames for one reader. Changes between two calls of [`Self::next`] are merged.
#[derive(Debug)]
pub struct Subscription {
    publisher: Arc<Publisher>,
    changed: watch::Receiver<u64>,
    options: WatchOptions,
    epoch: u64,
    seq: u64,
    seen: u64,
    /// `None` before the snapshot. Otherwise the time at which the frames so far would end if each had kept its interval.
    /// A time in the future is the used part of the burst.
    paced_until: Option<Instant>,
    /// Heartbeats are due independently of deltas, which do not confirm unchanged values.
    last_heartbeat: Instant,
    endpoints: HashSet<EndpointKey>,
    gpu_uuids: HashSet<String>,
}

impl Subscription {
    /// Starts a stream. `epoch` identifies the run of the agent.
    pub fn new(publisher: Arc<Publisher>, epoch: u64, options: WatchOptions) -> Self {
        let changed = publisher.subscribe();
        Self {
            publisher,
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

    /// Waits until the next frame is due. Cancel safe.
    pub async fn next(&mut self) -> Frame {
        let Some(paced_until) = self.paced_until else {
            return self.snapshot();
        };
        let heartbeat_at = self.last_heartbeat + self.options.heartbeat;
        loop {
            if Instant::now() >= heartbeat_at {
                self.last_heartbeat = Instant::now();
                return self.frame(Body::Heartbeat(self.publisher.heartbeat()));
            }
            match tokio::time::timeout_at(heartbeat_at, self.changed.changed()).await {
                Err(_elapsed) => continue,
                // Unreachable: the subscription holds the publisher.
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

    #[cfg(test)]
    fn has_changes(&self) -> bool {
        self.seen != *self.changed.borrow()
    }

    /// Returns the last frame of a stream that the agent ends.
    pub fn goodbye(&mut self, reason: &str) -> Frame {
        self.frame(Body::Goodbye(forebay_telemetry::v1::Goodbye { reason: reason.into() }))
    }

    fn snapshot(&mut self) -> Frame {
        self.last_heartbeat = Instant::now();
        self.changed.mark_unchanged();
        let (snapshot, version) = self.publisher.snapshot_with(self.options.latencies);
        self.seen = version;
        self.endpoints = snapshot.endpoints.iter().filter_map(|endpoint| endpoint.key.clone()).collect();
        self.gpu_uuids = snapshot.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        self.frame(Body::Snapshot(snapshot))
    }

    fn delta(&mut self) -> Option<Delta> {
        let Changes { mut delta, members, version } =
            self.publisher.changes(self.seen, self.options.latencies);
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
    use crate::publish::LoadReport;
    use forebay_telemetry::{
        Replica,
        client::Received,
        v1::{EngineLoad, Gpu, Histogram, KernelLoad, Model, Node, Snapshot},
    };
    use prost::Message as _;

    const ADDRESS: &str = "10.0.0.1:8000";

    fn publisher() -> Arc<Publisher> {
        let publisher = Arc::new(Publisher::new(Node { name: "n".into(), ..Node::default() }));
        publisher.set_endpoints(members(&[ADDRESS]));
        publisher
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

    fn load(in_flight: u64, measured_boottime_ns: u64) -> LoadReport<KernelLoad> {
        LoadReport::Measured(KernelLoad { in_flight, measured_boottime_ns, ..KernelLoad::default() })
    }

    fn subscribe(publisher: &Arc<Publisher>, heartbeat_ms: u32) -> Subscription {
        Subscription::new(Arc::clone(publisher), 7, WatchOptions::requested(0, heartbeat_ms))
    }

    #[tokio::test(start_paused = true)]
    async fn stream_has_snapshot_then_deltas_then_heartbeats() {
        let publisher = publisher();
        let address = ADDRESS.parse().unwrap();
        let mut subscription = subscribe(&publisher, 1000);
        let first = subscription.next().await;
        assert_eq!((first.epoch, first.seq), (7, 1));
        assert!(matches!(first.body, Some(Body::Snapshot(snapshot)) if snapshot.endpoints.len() == 1));

        publisher.set_kernel(address, "", load(1, 10));
        let Some(Body::Delta(delta)) = subscription.next().await.body else { panic!("no delta") };
        assert_eq!(delta.endpoints[0].kernel.unwrap().in_flight, 1);

        // A new measurement of the same value is not a change.
        publisher.set_kernel(address, "", load(1, 20));
        publisher.confirm_kernel(20);
        let frame = subscription.next().await;
        assert_eq!(frame.seq, 3);
        let Some(Body::Heartbeat(heartbeat)) = frame.body else { panic!("no heartbeat") };
        assert_eq!(heartbeat.kernel_measured_boottime_ns, Some(20));
    }

    fn histograms(count: u64) -> [Histogram; 3] {
        let bounds_ns = if count == 0 { vec![] } else { vec![1_000, 2_000] };
        let counts = if count == 0 { vec![] } else { vec![count] };
        [(); 3].map(|()| Histogram { bounds_ns: bounds_ns.clone(), counts: counts.clone() })
    }

    #[tokio::test(start_paused = true)]
    async fn latency_histograms_go_to_those_who_ask_and_only_when_they_change() {
        let publisher = publisher();
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let options = WatchOptions::requested(0, 1000).with_latencies(true);
        let mut wanted = Subscription::new(Arc::clone(&publisher), 7, options);
        let mut other = subscribe(&publisher, 1000);
        let measure = |count, at| publisher.set_kernel_window(address, "", load(1, at), &histograms(count));
        // Of an idle endpoint there are none, in no frame.
        measure(0, 10);
        let Some(Body::Snapshot(snapshot)) = wanted.next().await.body else { panic!("no snapshot") };
        assert_eq!((snapshot.endpoints.len(), snapshot.latencies.len()), (1, 0));
        other.next().await;
        measure(3, 20);
        let Some(Body::Delta(delta)) = wanted.next().await.body else { panic!("no delta") };
        assert_eq!(delta.endpoints.len(), 0, "the load has not changed");
        assert_eq!(delta.latencies[0].key.as_ref().unwrap().ip, "10.0.0.1");
        assert_eq!(delta.latencies[0].itl.as_ref().unwrap().counts, [3]);
        let Some(Body::Heartbeat(_)) = other.next().await.body else { panic!("a frame without a change") };
        // The same values are not sent again.
        wanted.next().await;
        measure(3, 30);
        assert!(matches!(wanted.next().await.body, Some(Body::Heartbeat(_))));
        measure(0, 40);
        let Some(Body::Delta(delta)) = wanted.next().await.body else { panic!("no delta") };
        assert_eq!(delta.latencies[0].itl.as_ref().unwrap().counts, [0; 0], "readers forget the counts");
        publisher.set_kernel(address, "", load(2, 50));
        let Some(Body::Delta(delta)) = wanted.next().await.body else { panic!("no delta") };
        assert_eq!((delta.endpoints.len(), delta.latencies.len()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_reader_gets_newest_values_once() {
        let publisher = publisher();
        let mut subscription = subscribe(&publisher, 1000);
        subscription.next().await;
        for in_flight in 1..=100 {
            publisher.set_kernel(ADDRESS.parse().unwrap(), "", load(in_flight, in_flight));
        }
        let Some(Body::Delta(delta)) = subscription.next().await.body else { panic!("no delta") };
        assert_eq!(delta.endpoints[0].kernel.unwrap().in_flight, 100);
        assert!(matches!(subscription.next().await.body, Some(Body::Heartbeat(_))));
    }

    #[test]
    fn successor_at_the_same_address_does_not_inherit_values() {
        let publisher = publisher();
        let address = ADDRESS.parse().unwrap();
        publisher.set_kernel(address, "", load(3, 10));
        let mut next = members(&[ADDRESS]);
        next.values_mut().for_each(|key| key.uid = "next".into());
        publisher.set_endpoints(next);
        publisher.set_kernel(address, "", load(4, 20));
        assert_eq!(publisher.snapshot().0.endpoints[0].kernel, None);
        publisher.set_kernel(address, "next", load(1, 30));
        assert_eq!(publisher.snapshot().0.endpoints[0].kernel.unwrap().in_flight, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn burst_is_sent_at_once_and_more_frames_keep_the_interval() {
        let publisher = publisher();
        let mut subscription = subscribe(&publisher, 60_000);
        subscription.next().await;
        let started = Instant::now();
        let mut sent = Vec::new();
        for in_flight in 1..=100 {
            publisher.set_kernel(ADDRESS.parse().unwrap(), "", load(in_flight, in_flight));
            subscription.next().await;
            sent.push(started.elapsed());
        }
        assert_eq!(sent[BURST as usize - 2], Duration::ZERO, "{sent:?}");
        assert!(sent[99] >= DEFAULT_MIN_INTERVAL * (100 - BURST), "{:?}", sent[99]);
    }

    #[tokio::test(start_paused = true)]
    async fn deltas_do_not_delay_heartbeats() {
        let publisher = publisher();
        let mut subscription = subscribe(&publisher, 1000);
        subscription.next().await;
        let started = Instant::now();
        let mut heartbeats = 0;
        for in_flight in 1.. {
            publisher.set_kernel(ADDRESS.parse().unwrap(), "", load(in_flight, in_flight));
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
    async fn removed_endpoints_and_gpus_are_in_the_delta() {
        let publisher = publisher();
        let gpu = Gpu { uuid: "GPU-1".into(), ..Gpu::default() };
        publisher.set_gpus(vec![gpu], &BTreeMap::new(), Some(1));
        let mut subscription = subscribe(&publisher, 1000);
        subscription.next().await;
        publisher.set_endpoints(members(&["10.0.0.2:8000"]));
        // The number stays the same.
        let other = Gpu { uuid: "GPU-2".into(), ..Gpu::default() };
        publisher.set_gpus(vec![other], &BTreeMap::new(), Some(2));
        let Some(Body::Delta(delta)) = subscription.next().await.body else { panic!("no delta") };
        assert_eq!(delta.removed_endpoints[0].ip, "10.0.0.1");
        assert_eq!(delta.removed_gpu_uuids, ["GPU-1"]);
        assert_eq!(delta.endpoints[0].key.as_ref().unwrap().ip, "10.0.0.2");
    }

    /// The decoder of readers accepts 16 MiB.
    #[tokio::test(start_paused = true)]
    async fn long_lists_of_models_do_not_exceed_the_frame_of_a_reader() {
        let publisher = publisher();
        let addresses: Vec<String> =
            (0..1000).map(|n| format!("10.0.{}.{}:8000", n / 250, n % 250)).collect();
        publisher.set_endpoints(members(&addresses.iter().map(String::as_str).collect::<Vec<_>>()));
        let model = |n: u32| Model { id: format!("{n:0>32}"), ..Model::default() };
        for address in &addresses {
            let load = EngineLoad { models: (0..1000).map(model).collect(), ..EngineLoad::default() };
            publisher.set_engine(address.parse().unwrap(), "", LoadReport::Measured(load));
        }
        let frame = subscribe(&publisher, 1000).next().await;
        assert!(frame.encoded_len() < 16 << 20, "{} bytes", frame.encoded_len());
        let Some(Body::Snapshot(snapshot)) = frame.body else { panic!("no snapshot") };
        assert_eq!(snapshot.endpoints.len(), 1000);
        for engine in snapshot.endpoints.iter().map(|endpoint| endpoint.engine.as_ref().unwrap()) {
            assert!(!engine.models.is_empty() && engine.models_omitted > 0);
            assert_eq!(engine.models.len() + engine.models_omitted as usize, 1000);
        }
    }

    /// Compares without times of measurement, which unchanged values do not send.
    fn without_times(mut snapshot: Snapshot) -> Snapshot {
        for endpoint in &mut snapshot.endpoints {
            if let Some(kernel) = &mut endpoint.kernel {
                kernel.measured_boottime_ns = 0;
            }
            if let Some(engine) = &mut endpoint.engine {
                engine.measured_boottime_ns = 0;
            }
        }
        snapshot.gpus.iter_mut().for_each(|gpu| gpu.measured_boottime_ns = 0);
        snapshot.latencies.sort_by(|a, b| format!("{:?}", a.key).cmp(&format!("{:?}", b.key)));
        snapshot.endpoints.sort_by(|a, b| format!("{:?}", a.key).cmp(&format!("{:?}", b.key)));
        snapshot
    }

    /// One random change of the state.
    fn change(publisher: &Publisher, random: &mut fastrand::Rng, now_ns: u64) {
        let address: SocketAddr = ([10, 0, 0, random.u8(0..4)], 8000).into();
        let uid = random.u8(0..2).to_string();
        match random.u8(0..6) {
            0 => {
                let mut endpoints =
                    members(&["10.0.0.0:8000", "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]);
                endpoints.retain(|_, key| {
                    key.uid = random.u8(0..2).to_string();
                    random.bool()
                });
                publisher.set_endpoints(endpoints);
            }
            1 if random.bool() => publisher.set_kernel(address, &uid, load(random.u64(0..3), now_ns)),
            1 => {
                let histograms = histograms(random.u64(0..3));
                publisher.set_kernel_window(address, &uid, load(random.u64(0..3), now_ns), &histograms);
            }
            2 => publisher.set_kernel(address, &uid, LoadReport::Off("off".into())),
            3 => {
                let engine = EngineLoad { measured_boottime_ns: now_ns, running: 1, ..EngineLoad::default() };
                publisher.set_engine(address, &uid, LoadReport::Measured(engine));
            }
            4 => {
                let gpu = |index: u32| Gpu { uuid: format!("GPU-{index}"), index, ..Gpu::default() };
                let gpus: Vec<Gpu> = (0..3).filter(|_| random.bool()).map(gpu).collect();
                let users = BTreeMap::from([(address, vec!["GPU-0".to_owned()])]);
                publisher.set_gpus(gpus, &users, Some(now_ns));
            }
            _ => publisher.set_node(|node| node.gpu_off = random.bool().then(|| "off".into())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn replica_of_a_subscription_equals_the_publishers_snapshot() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..50 {
            let publisher = publisher();
            let options = WatchOptions::requested(0, 1000).with_latencies(true);
            let mut subscription = Subscription::new(Arc::clone(&publisher), 7, options);
            let mut replica = Replica::default();
            for step in 1..=40 {
                for _ in 0..random.u8(0..4) {
                    change(&publisher, &mut random, step);
                }
                // The snapshot or all pending changes; a heartbeat may come first.
                loop {
                    let frame = subscription.next().await;
                    let is_heartbeat = matches!(frame.body, Some(Body::Heartbeat(_)));
                    replica.apply(&Received { frame, at: std::time::Instant::now() });
                    if is_heartbeat || !subscription.has_changes() {
                        break;
                    }
                }
                if !subscription.has_changes() {
                    assert_eq!(
                        without_times(replica.snapshot()),
                        without_times(publisher.snapshot_with(true).0)
                    );
                }
            }
        }
    }
}
