//! The agents' reports, and how they update the members of a pool.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use forebay_telemetry::{
    Change, changes,
    client::Received,
    v1::{self, GpuHealth},
};

use super::{
    engine::EngineGauges,
    liveness::Verdict,
    models::ModelList,
    state::{EndpointState, KernelCount, Priors},
};

/// Maximum endpoints accepted per agent. Further ones are ignored.
const MAX_ENDPOINTS_PER_AGENT: usize = 4096;
/// Maximum lost GPUs accepted per agent. Further ones are ignored.
const MAX_GPUS_PER_AGENT: usize = 1024;

/// What one agent reported on the members of the pool.
#[derive(Debug, Default)]
pub(super) struct Agent {
    epoch: u64,
    pub(super) last_frame: Option<Instant>,
    pub(super) reports: HashMap<SocketAddr, Report>,
    lost_gpus: HashSet<String>,
}

/// The report of an agent on one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Report {
    uid: String,
    pub(super) kernel: Option<KernelCount>,
    pub(super) engine: Option<EngineGauges>,
    gpu_uuids: Vec<String>,
    /// The verdict on the engine, and since when it holds.
    liveness: Option<(v1::Liveness, Option<Instant>)>,
    /// The models of the engine, if it was ever scraped.
    pub(super) models: Option<ModelList>,
    /// The adapters of the engine's requests.
    pub(super) adapters: Option<v1::Adapters>,
}

/// The members of the pool, as reports are applied to them.
pub(super) struct Members<'a> {
    endpoints: &'a mut [EndpointState],
    by_address: &'a foldhash::HashMap<SocketAddr, usize>,
    priors: Priors,
    effects: Effects,
}

/// What reports changed beyond the members themselves.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Members whose state changed.
    pub(super) touched: Vec<usize>,
    /// Members whose engine restarted.
    pub(super) restarted: Vec<usize>,
    /// The models of a member changed.
    pub(super) has_new_models: bool,
    /// Members whose adapters changed.
    pub(super) new_adapters: Vec<usize>,
    pub(super) generated_tokens: f64,
    pub(super) ended_requests: f64,
}

impl<'a> Members<'a> {
    pub(super) fn new(
        endpoints: &'a mut [EndpointState],
        by_address: &'a foldhash::HashMap<SocketAddr, usize>,
        priors: Priors,
    ) -> Self {
        Self { endpoints, by_address, priors, effects: Effects::default() }
    }

    pub(super) fn into_effects(self) -> Effects {
        self.effects
    }
}

impl Members<'_> {
    /// The member that the report is about.
    fn of(&mut self, address: SocketAddr, report: &Report) -> Option<&mut EndpointState> {
        let index = *self.by_address.get(&address)?;
        let endpoint = self.endpoints.get_mut(index).filter(|endpoint| report.is_about(endpoint))?;
        self.effects.touched.push(index);
        Some(endpoint)
    }

    fn set_models(&mut self, address: SocketAddr, report: &Report) {
        let Some(endpoint) = self.of(address, report) else { return };
        if endpoint.models != report.models {
            endpoint.models.clone_from(&report.models);
            self.effects.has_new_models = true;
        }
    }

    fn set_adapters(&mut self, address: SocketAddr, report: &Report) {
        let (Some(endpoint), Some(adapters)) = (self.of(address, report), &report.adapters) else { return };
        if endpoint.adapters.get_or_insert_default().read(adapters) {
            self.effects.new_adapters.extend(self.effects.touched.last());
        }
    }

    fn set_engine(&mut self, address: SocketAddr, report: &Report, engine: Option<EngineGauges>) {
        let Some(endpoint) = self.of(address, report) else { return };
        let reading = endpoint.set_engine(engine);
        self.effects.generated_tokens += reading.generated_tokens;
        self.effects.ended_requests += reading.ended_requests;
        if reading.has_restarted {
            self.effects.restarted.extend(self.effects.touched.last());
        }
    }

    fn forget(&mut self, address: SocketAddr, report: &Report) {
        let priors = self.priors;
        if let Some(endpoint) = self.of(address, report) {
            endpoint.set_kernel(None, false, &priors);
            endpoint.set_engine(None);
            endpoint.set_gpu_lost_until(None);
            endpoint.forget_verdict();
        }
    }
}

impl Report {
    /// The verdict on the engine. Each frame confirms it.
    pub(super) fn verdict(&self, until: Instant) -> Option<Verdict> {
        self.liveness.map(|(liveness, since)| Verdict { liveness, since, until })
    }

    /// Compares the uid, because the address may have belonged to an earlier pod. Pods of a folder may have no uid.
    pub(super) fn is_about(&self, state: &EndpointState) -> bool {
        self.uid.is_empty() || state.endpoint.uid.is_empty() || self.uid == state.endpoint.uid
    }
}

impl Agent {
    pub(super) fn apply(&mut self, received: &Received, stale_after: Duration, members: &mut Members<'_>) {
        self.last_frame = Some(received.at);
        let had_lost_gpus = !self.lost_gpus.is_empty();
        let mut new_epoch = false;
        // Reports before a snapshot that it does not renew.
        let mut gone = HashMap::new();
        for change in changes(&received.frame) {
            match change {
                Change::Reset { epoch } => {
                    new_epoch = std::mem::replace(&mut self.epoch, epoch) != epoch;
                    self.lost_gpus.clear();
                    gone = std::mem::take(&mut self.reports);
                }
                Change::GpuRemoved(uuid) => {
                    self.lost_gpus.remove(uuid);
                }
                Change::Gpu(gpu) => self.take_gpu(gpu),
                Change::EndpointRemoved(key) => {
                    if let Some(address) = address_of(key)
                        && let Some(report) = self.reports.remove(&address)
                    {
                        members.forget(address, &report);
                    }
                }
                Change::Endpoint(endpoint) => {
                    if let Some(address) = self.take_endpoint(endpoint, received, new_epoch, members) {
                        gone.remove(&address);
                    }
                }
                Change::KernelConfirmed { measured_boottime_ns } => {
                    self.kernel_still_holds(measured_boottime_ns, received, members);
                }
                Change::Node(_) | Change::Latencies(_) | Change::GpusConfirmed { .. } => {}
                Change::EngineConfirmed(engine) => self.engine_still_holds(engine, received, members),
            }
        }
        for (address, report) in gone {
            members.forget(address, &report);
        }
        self.confirm_verdicts(received.at, stale_after, members);
        if had_lost_gpus || !self.lost_gpus.is_empty() {
            self.mark_lost_gpus(received.at + stale_after, members);
        }
    }

    fn take_gpu(&mut self, gpu: &v1::Gpu) {
        if gpu.health() != GpuHealth::Lost {
            self.lost_gpus.remove(&gpu.uuid);
        } else if self.lost_gpus.len() < MAX_GPUS_PER_AGENT {
            self.lost_gpus.insert(gpu.uuid.clone());
        }
    }

    pub(super) fn has_lost(&self, report: &Report) -> bool {
        report.gpu_uuids.iter().any(|uuid| self.lost_gpus.contains(uuid))
    }

    /// Removes endpoints that are not members any more.
    pub(super) fn keep_reports_on(&mut self, members: &foldhash::HashMap<SocketAddr, usize>) {
        self.reports.retain(|address, _| members.contains_key(address));
    }

    /// The agent judges its engines several times between two frames.
    fn confirm_verdicts(&self, now: Instant, stale_after: Duration, members: &mut Members<'_>) {
        for (address, report) in &self.reports {
            let verdict = report.verdict(now + stale_after);
            if let Some(endpoint) = members.of(*address, report) {
                endpoint.set_verdict(verdict, now);
            }
        }
    }

    fn mark_lost_gpus(&self, until: Instant, members: &mut Members<'_>) {
        for (address, report) in &self.reports {
            if let Some(endpoint) = members.of(*address, report) {
                endpoint.set_gpu_lost_until(self.has_lost(report).then_some(until));
            }
        }
    }

    /// Applies the report on one endpoint. Returns its address, or `None` if the report is invalid, over the limit,
    /// or not on a member.
    fn take_endpoint(
        &mut self,
        endpoint: &v1::Endpoint,
        received: &Received,
        new_epoch: bool,
        members: &mut Members<'_>,
    ) -> Option<SocketAddr> {
        let key = endpoint.key.as_ref()?;
        let address = address_of(key)?;
        let is_over_limit =
            self.reports.len() >= MAX_ENDPOINTS_PER_AGENT && !self.reports.contains_key(&address);
        if is_over_limit || !members.by_address.contains_key(&address) {
            return None;
        }
        let kernel = endpoint.kernel.as_ref().and_then(|kernel| {
            let measured = received.local_time(kernel.measured_boottime_ns)?;
            Some(KernelCount {
                in_flight: kernel.in_flight,
                started: kernel.started,
                waiting_bytes: kernel.waiting_request_bytes,
                bytes_in: kernel.bytes_in,
                bytes_out: kernel.bytes_out,
                chunks: kernel.chunks,
                opaque_connections: kernel.opaque_connections,
                measured,
            })
        });
        let engine = endpoint.engine.as_ref().and_then(|engine| {
            let measured = received.local_time(engine.measured_boottime_ns)?;
            Some(engine_gauges(engine, measured))
        });
        let liveness = endpoint.liveness.map(|it| (it, received.local_time(it.since_boottime_ns)));
        let gpu_uuids = endpoint.gpu_uuids.clone();
        // An engine that cannot be scraped keeps its list.
        let before =
            self.reports.get(&address).filter(|it| it.uid == key.uid).and_then(|it| it.models.clone());
        let models = endpoint.engine.as_ref().and_then(ModelList::of).or(before);
        let adapters = endpoint.engine.as_ref().and_then(|engine| engine.adapters.clone());
        let report = Report { uid: key.uid.clone(), kernel, engine, gpu_uuids, liveness, models, adapters };
        let priors = members.priors;
        if let Some(member) = members.of(address, &report) {
            member.set_kernel(kernel, new_epoch, &priors);
            if !self.has_lost(&report) {
                member.set_gpu_lost_until(None);
            }
        }
        members.set_engine(address, &report, engine);
        members.set_models(address, &report);
        members.set_adapters(address, &report);
        self.reports.insert(address, report);
        Some(address)
    }

    fn kernel_still_holds(
        &mut self,
        measured_boottime_ns: u64,
        received: &Received,
        members: &mut Members<'_>,
    ) {
        let Some(measured) = received.local_time(measured_boottime_ns) else { return };
        for (address, report) in &mut self.reports {
            if let Some(kernel) = &mut report.kernel {
                kernel.measured = kernel.measured.max(measured);
            }
            if let Some(endpoint) = members.of(*address, report) {
                endpoint.confirm_kernel(measured);
            }
        }
    }

    fn engine_still_holds(&mut self, age: &v1::EngineAge, received: &Received, members: &mut Members<'_>) {
        let measured = received.local_time(age.measured_boottime_ns);
        if let (Some(address), Some(measured)) = (age.key.as_ref().and_then(address_of), measured)
            && let Some(report) = self.reports.get_mut(&address)
        {
            if let Some(engine) = &mut report.engine {
                engine.measured = engine.measured.max(measured);
            }
            if let Some(endpoint) = members.of(address, report) {
                endpoint.confirm_engine(measured);
            }
        }
    }
}

fn engine_gauges(engine: &v1::EngineLoad, measured: Instant) -> EngineGauges {
    let (block_size, blocks) = (engine.block_size_tokens, engine.num_gpu_blocks);
    EngineGauges {
        running: engine.running,
        waiting: engine.waiting,
        kv_usage: engine.kv_cache_usage,
        prompt_tokens: engine.prompt_tokens,
        prefix_queries: engine.prefix_cache_queries,
        prefix_hits: engine.prefix_cache_hits,
        generated_tokens: engine.generation_tokens,
        ended_requests: engine.requests_succeeded,
        cache_tokens: block_size.zip(blocks).map(|(size, count)| u64::from(size) * u64::from(count)),
        measured,
    }
}

/// The address of an endpoint. `None` if it is invalid.
pub(crate) fn address_of(key: &v1::EndpointKey) -> Option<SocketAddr> {
    Some(SocketAddr::new(key.ip.parse().ok()?, u16::try_from(key.port).ok()?))
}
