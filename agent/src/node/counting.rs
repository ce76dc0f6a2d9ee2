//! The kernel's numbers to the board: at once when a request begins or ends, and all
//! of them every second.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io::ErrorKind,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use forebay_agent_ebpf::maps::{GpuSample, Histogram, Load, gpu_field};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    discover::{CgroupRoot, LocalPod, PodCgroups},
    gpu::{GpuReading, GpuReport},
    kernel::{Events, Kernel, Quantiles, boottime_ns},
    publish::{Board, Readiness, Reading},
};
use forebay_telemetry::v1::{KernelLoad, Latency};

const REFRESH: Duration = Duration::from_secs(1);
/// Pods whose cgroup is not there yet are looked for this often at first, and ever
/// less often.
const SEARCH: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// With longer pauses than this, a missing cgroup is worth a line in the log.
const PATIENCE: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(10);
/// Latencies are of the last twelve of these.
const WINDOW_STEP: Duration = Duration::from_secs(5);
const WINDOW_STEPS: usize = 12;

pub(super) struct Counting {
    kernel: Kernel,
    root: CgroupRoot,
    board: Arc<Board>,
    readiness: Arc<Readiness>,
    slots: HashMap<u32, Slot>,
    pods: Vec<LocalPod>,
    /// Of the pods that are watched: where it is, and its id.
    cgroups: Vec<(PathBuf, u64)>,
    /// Some pod is not watched yet.
    unresolved: bool,
    next_look: Instant,
    pause: Duration,
    /// Why a pod is not watched, as last logged, by uid.
    said: HashMap<String, String>,
    next_window: Instant,
    next_sweep: Instant,
}

/// One endpoint's place in the kernel's maps.
struct Slot {
    address: SocketAddr,
    /// Of the pod that it is of.
    uid: String,
    latencies: [Latency; 3],
    /// Readings of the three histograms, the oldest first.
    window: VecDeque<[Histogram; 3]>,
}

impl Counting {
    pub(super) fn new(
        kernel: Kernel,
        root: CgroupRoot,
        board: Arc<Board>,
        readiness: Arc<Readiness>,
    ) -> Self {
        let now = Instant::now();
        Self {
            kernel,
            root,
            board,
            readiness,
            slots: HashMap::new(),
            pods: Vec::new(),
            cgroups: Vec::new(),
            unresolved: false,
            next_look: now,
            pause: SEARCH,
            said: HashMap::new(),
            next_window: now + WINDOW_STEP,
            next_sweep: now + SWEEP,
        }
    }

    pub(super) async fn run(
        mut self,
        mut events: Events,
        mut pods: watch::Receiver<Vec<LocalPod>>,
        mut gpus: watch::Receiver<GpuReport>,
        shutdown: CancellationToken,
    ) {
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dirty = BTreeSet::new();
        let mut events_work = true;
        pods.mark_changed();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = events.next(|event| { dirty.insert(event.slot); }), if events_work => {
                    if let Err(error) = result {
                        // The counts stay right; they are only read less often.
                        tracing::error!(%error, "the kernel's events cannot be read any more");
                        events_work = false;
                    }
                    for slot in std::mem::take(&mut dirty) {
                        self.publish(slot);
                    }
                }
                Ok(()) = pods.changed() => {
                    let here = pods.borrow_and_update().clone();
                    self.follow(here);
                    self.readiness.set_ready();
                }
                () = tokio::time::sleep_until(self.next_look) => self.look(),
                _ = refresh.tick() => self.refresh(),
                Ok(()) = gpus.changed() => {
                    if let GpuReport::On(readings) = &*gpus.borrow_and_update() {
                        self.pin_gpus(readings);
                    }
                }
            }
        }
    }

    /// The pods changed: watch what is here, stop watching what is gone.
    fn follow(&mut self, pods: Vec<LocalPod>) {
        self.said.retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        self.pods = pods;
        self.pause = SEARCH;
        self.resolve();
        self.refresh();
    }

    /// Looks again for cgroups that the kubelet had not made, or has made anew.
    fn look(&mut self) {
        let moved = self.cgroups.iter().any(|(path, id)| {
            !std::fs::metadata(path).is_ok_and(|now| std::os::unix::fs::MetadataExt::ino(&now) == *id)
        });
        if moved || self.unresolved {
            self.resolve();
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.next_look = Instant::now() + if self.unresolved { self.pause } else { REFRESH };
    }

    fn resolve(&mut self) {
        self.next_look = Instant::now() + self.pause;
        self.unresolved = true;
        let cgroups = match self.root.pods() {
            Ok(cgroups) => cgroups,
            Err(error) if error.kind() == ErrorKind::NotFound => PodCgroups::default(),
            // What is watched stays so.
            Err(error) => {
                let reason = format!("cannot look for its cgroup: {error}");
                for pod in std::mem::take(&mut self.pods) {
                    if self.slots.values().all(|slot| slot.uid != pod.uid) {
                        self.say(&pod, &reason);
                        self.turn_off(&pod, &reason);
                    }
                    self.pods.push(pod);
                }
                return;
            }
        };
        self.unresolved = false;
        self.cgroups.clear();
        let mut before = std::mem::take(&mut self.slots);
        for pod in std::mem::take(&mut self.pods) {
            let path = cgroups.get(&pod.cgroup_uid);
            let watched = match path {
                Some(path) => self.kernel.watch(path, &pod.ports).map_err(|error| error.to_string()),
                None => Err(format!("its cgroup is not under {}", self.root.path().display())),
            };
            match (watched, path) {
                (Ok(at), Some(path)) => {
                    self.cgroups.push((path.to_owned(), at.cgroup_id));
                    self.add(&pod, &at.slots, &mut before);
                }
                (Err(reason), _) => {
                    self.unresolved = true;
                    // The kubelet may be about to make it.
                    if path.is_some() || self.pause > PATIENCE {
                        self.say(&pod, &reason);
                    }
                    self.turn_off(&pod, &reason);
                }
                (Ok(_), None) => {}
            }
            self.pods.push(pod);
        }
        let ids = self.cgroups.iter().map(|(_, id)| *id).collect();
        if let Err(error) = self.kernel.retain(&ids) {
            tracing::warn!(%error, "could not stop watching pods that are gone");
        }
    }

    fn add(&mut self, pod: &LocalPod, slots: &[(u16, u32)], before: &mut HashMap<u32, Slot>) {
        self.said.remove(&pod.uid);
        let Some(ip) = pod.ip else { return };
        for &(port, slot) in slots {
            let address = SocketAddr::new(ip, port);
            let known = before.remove(&slot).filter(|known| known.address == address && known.uid == pod.uid);
            let entry = known.unwrap_or_else(|| Slot {
                address,
                uid: pod.uid.clone(),
                latencies: Default::default(),
                window: self.histograms(slot).into_iter().collect(),
            });
            self.slots.insert(slot, entry);
            self.publish(slot);
        }
    }

    /// Once for each reason.
    fn say(&mut self, pod: &LocalPod, reason: &str) {
        if self.said.get(&pod.uid).is_none_or(|said| said != reason) {
            self.said.insert(pod.uid.clone(), reason.to_owned());
            tracing::warn!(pod = %pod.key, %reason, "the pod's requests are not counted in the kernel");
        }
    }

    fn turn_off(&self, pod: &LocalPod, reason: &str) {
        let Some(ip) = pod.ip else { return };
        for &port in &pod.ports {
            self.board.set_kernel(SocketAddr::new(ip, port), &pod.uid, Reading::Off(reason.to_owned()));
        }
    }

    fn publish(&self, slot: u32) {
        let Some(endpoint) = self.slots.get(&slot) else { return };
        let measured_ns = boottime_ns();
        let reading = match self.kernel.load_of(slot) {
            Ok(load) => Reading::On(told(&load, &endpoint.latencies, measured_ns)),
            Err(error) => Reading::Off(format!("cannot read its counters: {error}")),
        };
        self.board.set_kernel(endpoint.address, &endpoint.uid, reading);
    }

    fn refresh(&mut self) {
        let now = Instant::now();
        let step = now >= self.next_window;
        if step {
            self.next_window = now + WINDOW_STEP;
        }
        let measured_ns = boottime_ns();
        let slots: Vec<u32> = self.slots.keys().copied().collect();
        for slot in slots {
            if let Some(histograms) = self.histograms(slot)
                && let Some(endpoint) = self.slots.get_mut(&slot)
            {
                if let Some(oldest) = endpoint.window.front() {
                    for (kind, latency) in endpoint.latencies.iter_mut().enumerate() {
                        *latency = summed_up(Quantiles::between(&oldest[kind], &histograms[kind]));
                    }
                }
                if step {
                    endpoint.window.push_back(histograms);
                    if endpoint.window.len() > WINDOW_STEPS {
                        endpoint.window.pop_front();
                    }
                }
            }
            self.publish(slot);
        }
        self.board.confirm_kernel(measured_ns);
        match self.kernel.counted() {
            Ok(counted) => self.board.set_counted(counted),
            Err(error) => tracing::warn!(%error, "cannot read what the kernel programs could not do"),
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            if let Err(error) = self.kernel.sweep() {
                tracing::warn!(%error, "could not sweep closed connections");
            }
        }
    }

    fn histograms(&self, slot: u32) -> Option<[Histogram; 3]> {
        use forebay_agent_ebpf::maps::Latency::{Duration, Itl, Ttft};
        let read = |kind| self.kernel.histogram(slot, kind).ok();
        Some([read(Ttft)?, read(Itl)?, read(Duration)?])
    }

    fn pin_gpus(&mut self, readings: &[GpuReading]) {
        for reading in readings {
            if let Err(error) = self.kernel.write_gpu(reading.gpu.index, pinned(reading)) {
                tracing::warn!(%error, gpu = reading.gpu.index, "could not write the GPU's sample to its map");
            }
        }
    }
}

fn told(load: &Load, latencies: &[Latency; 3], measured_boottime_ns: u64) -> KernelLoad {
    let [ttft, itl, duration] = latencies.map(Some);
    KernelLoad {
        measured_boottime_ns,
        in_flight: load.in_flight,
        started: load.started,
        finished: load.finished,
        aborted: load.aborted,
        other_requests: load.other_requests,
        responses_2xx: load.responses_2xx,
        responses_4xx: load.responses_4xx,
        responses_5xx: load.responses_5xx,
        bytes_in: load.bytes_in,
        bytes_out: load.bytes_out,
        chunks: load.chunks,
        opaque_connections: load.opaque_connections,
        ttft,
        itl,
        duration,
    }
}

fn summed_up(quantiles: Quantiles) -> Latency {
    let Quantiles { count, sum_ns, p50_ns, p95_ns, p99_ns } = quantiles;
    Latency { count, sum_ns, p50_ns, p95_ns, p99_ns }
}

fn pinned(reading: &GpuReading) -> GpuSample {
    let gpu = &reading.gpu;
    let mut present = 0;
    let mut note = |is_there: bool, field: u32| present |= if is_there { field } else { 0 };
    note(gpu.utilization_percent.is_some(), gpu_field::UTILIZATION);
    note(gpu.memory_used_bytes.is_some() && gpu.memory_total_bytes.is_some(), gpu_field::MEMORY);
    note(gpu.temperature_celsius.is_some(), gpu_field::TEMPERATURE);
    note(gpu.power_mw.is_some(), gpu_field::POWER);
    note(gpu.sm_clock_mhz.is_some(), gpu_field::SM_CLOCK);
    note(reading.throttle_bits.is_some(), gpu_field::THROTTLE_REASONS);
    let mut uuid = [0; 48];
    let length = gpu.uuid.len().min(uuid.len() - 1);
    uuid[..length].copy_from_slice(&gpu.uuid.as_bytes()[..length]);
    GpuSample {
        measured_ns: gpu.measured_boottime_ns,
        memory_used_bytes: gpu.memory_used_bytes.unwrap_or_default(),
        memory_total_bytes: gpu.memory_total_bytes.unwrap_or_default(),
        power_mw: gpu.power_mw.unwrap_or_default(),
        throttle_reasons: reading.throttle_bits.unwrap_or_default(),
        xid_errors: gpu.xid_errors,
        utilization_percent: gpu.utilization_percent.unwrap_or_default(),
        temperature_celsius: gpu.temperature_celsius.unwrap_or_default(),
        sm_clock_mhz: gpu.sm_clock_mhz.unwrap_or_default(),
        health: gpu.health as u32,
        present,
        reserved: 0,
        uuid,
    }
}
