//! Publishes what the kernel programs count: an endpoint at once when one of its requests changes state, and all
//! endpoints every second.

mod attachments;
mod blind;
mod buckets;
mod connections;
mod sampler;
mod window;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    discover::{CgroupRoot, LocalPod},
    gpu::{GpuMeasurement, GpuReport},
    kernel::{Events, Kernel, boottime_ns},
    publish::{LatencyHistograms, LoadReport, Publisher, Readiness},
};
use attachments::Attachments;
use blind::Sight;
use connections::ConnectionReader;
use forebay_agent_ebpf::maps::Event;
use forebay_telemetry::v1::{EndpointKey, KernelLoad};
use window::{Histograms, LatencyWindow, STEP};

const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Reads the kernel's maps and publishes the load of each endpoint.
pub(super) struct RequestCounter {
    kernel: Kernel,
    attachments: Attachments,
    publisher: Arc<Publisher>,
    readiness: Arc<Readiness>,
    /// By slot.
    endpoints: HashMap<u32, WatchedEndpoint>,
    connections: ConnectionReader,
    next_step: Instant,
    next_sweep: Instant,
}

struct WatchedEndpoint {
    key: Arc<EndpointKey>,
    address: SocketAddr,
    /// Of its pod.
    uid: String,
    window: LatencyWindow,
    sight: Sight,
}

impl RequestCounter {
    pub(super) fn new(
        kernel: Kernel,
        root: CgroupRoot,
        publisher: Arc<Publisher>,
        readiness: Arc<Readiness>,
    ) -> Self {
        let now = Instant::now();
        Self {
            kernel,
            attachments: Attachments::new(root),
            publisher,
            readiness,
            endpoints: HashMap::new(),
            connections: ConnectionReader::new(),
            next_step: now + STEP,
            next_sweep: now + SWEEP_INTERVAL,
        }
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(
        mut self,
        mut events: Events,
        mut pods: watch::Receiver<Vec<LocalPod>>,
        mut gpus: watch::Receiver<GpuReport>,
        shutdown: CancellationToken,
    ) {
        let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dirty = BTreeSet::new();
        let mut events_work = true;
        pods.mark_changed();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = events.next(|event| {
                    dirty.insert(event.slot);
                    self.pass_on(&event);
                }), if events_work => {
                    if let Err(error) = result {
                        tracing::error!(%error, interval = ?REFRESH_INTERVAL, "kernel events lost; reading the counters at the interval");
                        events_work = false;
                        self.publisher.requests().close();
                    }
                    for slot in std::mem::take(&mut dirty) {
                        self.publish(slot);
                    }
                }
                Ok(()) = pods.changed() => {
                    let pods = pods.borrow_and_update().clone();
                    self.set_pods(pods);
                }
                () = tokio::time::sleep_until(self.attachments.next_check()) => {
                    if self.attachments.needs_attach() {
                        self.attach();
                        self.attachments.back_off();
                    }
                }
                _ = refresh.tick() => self.refresh(),
                Ok(()) = gpus.changed() => {
                    if let GpuReport::Measured(measurements) = &*gpus.borrow_and_update() {
                        self.write_gpus(measurements);
                    }
                }
            }
        }
    }

    /// Passes the requests of an event on to the readers of requests, if there are any.
    fn pass_on(&self, event: &Event) {
        let requests = self.publisher.requests();
        if requests.has_readers()
            && let Some(endpoint) = self.endpoints.get(&event.slot)
        {
            requests.publish(&endpoint.key, event);
        }
    }

    #[tracing::instrument(level = "debug", skip_all, fields(pods = pods.len()))]
    fn set_pods(&mut self, pods: Vec<LocalPod>) {
        self.attachments.set_pods(pods);
        self.attach();
        self.refresh();
    }

    /// The agent is ready once the cgroups were listed: each pod is then attached, or published with the reason why not.
    #[tracing::instrument(level = "debug", skip_all)]
    fn attach(&mut self) {
        match self.attachments.attach(&mut self.kernel) {
            Ok(results) => {
                let mut before = std::mem::take(&mut self.endpoints);
                for (pod, attached) in results {
                    match attached {
                        Ok(slots) => self.add_endpoints(&pod, &slots, &mut before),
                        Err(reason) => self.publish_off(&pod, &reason),
                    }
                }
                self.readiness.set_ready();
            }
            Err(reason) => {
                let is_watched = |pod: &LocalPod| self.endpoints.values().any(|it| it.uid == pod.uid);
                let pods = self.attachments.pods().iter().filter(|pod| !is_watched(pod)).cloned();
                for pod in pods.collect::<Vec<_>>() {
                    self.attachments.log_once(&pod, &reason);
                    self.publish_off(&pod, &reason);
                }
            }
        }
    }

    /// An endpoint that was watched before keeps its latency window.
    fn add_endpoints(
        &mut self,
        pod: &LocalPod,
        slots: &[(u16, u32)],
        before: &mut HashMap<u32, WatchedEndpoint>,
    ) {
        let Some(ip) = pod.ip else { return };
        for &(port, slot) in slots {
            let address = SocketAddr::new(ip, port);
            let known = before.remove(&slot).filter(|known| known.address == address && known.uid == pod.uid);
            let endpoint = known.unwrap_or_else(|| WatchedEndpoint {
                key: Arc::new(EndpointKey {
                    namespace: pod.key.namespace.clone(),
                    pod: pod.key.name.clone(),
                    uid: pod.uid.clone(),
                    ip: ip.to_string(),
                    port: port.into(),
                }),
                address,
                uid: pod.uid.clone(),
                window: LatencyWindow::new(self.histograms(slot)),
                sight: Sight { watched_since_ns: boottime_ns(), runtime_class: pod.runtime_class.clone() },
            });
            self.endpoints.insert(slot, endpoint);
            self.publish(slot);
        }
    }

    fn publish_off(&self, pod: &LocalPod, reason: &str) {
        let Some(ip) = pod.ip else { return };
        for &port in &pod.ports {
            let report = LoadReport::Off(reason.to_owned());
            self.publisher.set_kernel(SocketAddr::new(ip, port), &pod.uid, report);
        }
    }

    /// Publishes the load of an endpoint.
    fn publish(&self, slot: u32) {
        if let Some(endpoint) = self.endpoints.get(&slot) {
            self.publisher.set_kernel(endpoint.address, &endpoint.uid, self.report(slot, endpoint));
        }
    }

    /// Publishes the load and the latency window of an endpoint.
    fn publish_window(&self, slot: u32) {
        if let Some(endpoint) = self.endpoints.get(&slot) {
            let WatchedEndpoint { address, uid, window, .. } = endpoint;
            self.publisher.set_kernel_window(*address, uid, self.report(slot, endpoint), window.histograms());
        }
    }

    fn report(&self, slot: u32, endpoint: &WatchedEndpoint) -> LoadReport<KernelLoad> {
        let measured_ns = boottime_ns();
        let scraped_ns = self.publisher.scraped_ns(endpoint.address, &endpoint.uid);
        match self.kernel.load_of(slot) {
            Ok(load) => match endpoint.sight.blindness(load.bytes_in, scraped_ns) {
                Some(reason) => LoadReport::Off(reason),
                None => LoadReport::Measured(sampler::kernel_load(
                    &load,
                    self.connections.of(slot),
                    endpoint.window.latencies(),
                    measured_ns,
                )),
            },
            Err(error) => LoadReport::Off(format!("cannot read the counters: {error}")),
        }
    }

    /// Reads and publishes everything, and sweeps connections when it is due.
    #[tracing::instrument(level = "debug", skip_all)]
    fn refresh(&mut self) {
        let now = Instant::now();
        let advance = now >= self.next_step;
        if advance {
            self.next_step = now + STEP;
        }
        let slots: Vec<u32> = self.endpoints.keys().copied().collect();
        let has_requests =
            slots.iter().any(|&slot| self.kernel.load_of(slot).is_ok_and(|it| it.in_flight > 0));
        if let Err(error) = self.connections.refresh(&self.kernel, has_requests) {
            tracing::warn!(%error, retry_in = ?REFRESH_INTERVAL, "cannot read the connections; the oldest requests are not known");
        }
        let measured_ns = boottime_ns();
        for slot in slots {
            if let Some(histograms) = self.histograms(slot)
                && let Some(endpoint) = self.endpoints.get_mut(&slot)
            {
                endpoint.window.update(histograms, advance);
                let cumulative = LatencyHistograms::new(histograms);
                self.publisher.set_latency_histograms(endpoint.address, &endpoint.uid, cumulative);
            }
            self.publish_window(slot);
        }
        self.publisher.confirm_kernel(measured_ns);
        match self.kernel.drop_counters() {
            Ok(counters) => self.publisher.set_drop_counters(counters),
            Err(error) => tracing::warn!(%error, "cannot read the drop counters of the kernel programs"),
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            if let Err(error) = self.kernel.sweep() {
                tracing::warn!(%error, retry_in = ?SWEEP_INTERVAL, "cannot sweep closed connections");
            }
        }
    }

    fn histograms(&self, slot: u32) -> Option<Histograms> {
        use forebay_agent_ebpf::maps::Latency::{Duration, Itl, Ttft};
        let read = |kind| self.kernel.histogram(slot, kind).ok();
        Some([read(Ttft)?, read(Itl)?, read(Duration)?])
    }

    fn write_gpus(&mut self, measurements: &[GpuMeasurement]) {
        for measurement in measurements {
            let index = measurement.gpu.index;
            if let Err(error) = self.kernel.write_gpu(index, sampler::gpu_sample(measurement)) {
                tracing::warn!(%error, gpu = index, "cannot write the sample of a GPU to its BPF map");
            }
        }
    }
}
