//! State of one endpoint: reported load, own picks, and the score made of them.

use std::time::{Duration, Instant};

use forebay_resources::PoolEndpoint;

use super::{
    ledger::{Ledger, PickId},
    view::{EndpointView, LoadSource},
};

/// Maximum age of the engine's gauges. Engines update them only every few seconds.
const ENGINE_STALE_AFTER: Duration = Duration::from_secs(5);

/// Requests counted at the pod's sockets.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelCount {
    pub(super) in_flight: u64,
    /// Requests started since the agent began to count.
    pub(super) started: u64,
    /// When the values were last confirmed, on the local clock.
    pub(super) measured: Instant,
}

/// Gauges that the engine exports.
#[derive(Clone, Copy, Debug)]
pub(super) struct EngineGauges {
    pub(super) running: u32,
    pub(super) waiting: u32,
    /// When the values were last confirmed, on the local clock.
    pub(super) measured: Instant,
}

/// What is known about one endpoint of the pool.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(super) endpoint: PoolEndpoint,
    kernel: Option<KernelCount>,
    /// No pick has used the current kernel count yet.
    kernel_unused: bool,
    engine: Option<EngineGauges>,
    /// The report of a lost GPU expires, so that an agent that stopped does not exclude the endpoint forever.
    gpu_lost_until: Option<Instant>,
    ledger: Ledger,
}

impl EndpointState {
    pub(super) fn new(endpoint: PoolEndpoint) -> Self {
        Self {
            endpoint,
            kernel: None,
            kernel_unused: false,
            engine: None,
            gpu_lost_until: None,
            ledger: Ledger::default(),
        }
    }

    pub(crate) fn endpoint(&self) -> &PoolEndpoint {
        &self.endpoint
    }

    pub(crate) fn gpu_lost(&self, now: Instant) -> bool {
        self.gpu_lost_until.is_some_and(|until| now <= until)
    }

    pub(super) fn set_gpu_lost_until(&mut self, until: Option<Instant>) {
        self.gpu_lost_until = until;
    }

    /// Replaces the kernel's count. `new_epoch`: the agent restarted since the count before.
    pub(super) fn set_kernel(&mut self, count: Option<KernelCount>, new_epoch: bool) {
        if let Some(new) = &count {
            let has_restarted = match &self.kernel {
                Some(old) if new.started < old.started => true,
                Some(_) if !new_epoch => false,
                // An agent that restarts may or may not have kept its counters. It has not if it reports fewer
                // requests than the earlier count contained.
                _ => self.ledger.in_kernel() > new.in_flight,
            };
            let before = if has_restarted { 0 } else { self.kernel.map_or(new.started, |old| old.started) };
            if has_restarted {
                self.ledger.kernel_restarted();
            }
            self.ledger.kernel_counted(new.started.saturating_sub(before), new.measured);
        }
        self.kernel_unused = count.is_some();
        self.kernel = count;
    }

    /// The kernel's count was unchanged at `measured`.
    pub(super) fn confirm_kernel(&mut self, measured: Instant) {
        if let Some(kernel) = &mut self.kernel
            && kernel.measured < measured
        {
            kernel.measured = measured;
            self.ledger.kernel_counted(0, measured);
        }
    }

    pub(super) fn set_engine(&mut self, gauges: Option<EngineGauges>) {
        if let Some(gauges) = &gauges {
            self.ledger.engine_counted(gauges.measured);
        }
        self.engine = gauges;
    }

    /// The engine's gauges were unchanged at `measured`.
    pub(super) fn confirm_engine(&mut self, measured: Instant) {
        if let Some(engine) = &mut self.engine
            && engine.measured < measured
        {
            engine.measured = measured;
            self.ledger.engine_counted(measured);
        }
    }

    pub(super) fn add_pick(&mut self, pick: PickId, at: Instant) {
        self.ledger.add(pick, at);
    }

    /// Takes over a pick whose request this endpoint served.
    pub(super) fn add_served(&mut self, pick: PickId, at: Instant) {
        self.ledger.add_served(pick, at);
    }

    pub(super) fn remove_pick(&mut self, pick: PickId) -> Option<Instant> {
        self.ledger.remove(pick)
    }

    fn fresh_kernel(&self, now: Instant, stale_after: Duration) -> Option<&KernelCount> {
        self.kernel.as_ref().filter(|kernel| age(now, kernel.measured) <= stale_after)
    }

    fn fresh_engine(&self, now: Instant) -> Option<&EngineGauges> {
        self.engine.as_ref().filter(|engine| age(now, engine.measured) <= ENGINE_STALE_AFTER)
    }

    /// Requests in flight, from the best source that is not stale.
    fn load(&self, now: Instant, stale_after: Duration) -> (u64, LoadSource) {
        if let Some(kernel) = self.fresh_kernel(now, stale_after) {
            return (kernel.in_flight.saturating_add(self.ledger.not_in_kernel()), LoadSource::Kernel);
        }
        if let Some(engine) = self.fresh_engine(now) {
            let engine_load =
                u64::from(engine.running) + u64::from(engine.waiting) + self.ledger.not_in_engine();
            return (engine_load.max(self.ledger.open()), LoadSource::Engine);
        }
        (self.ledger.open(), LoadSource::Local)
    }

    /// What picks compare. Waiting requests count twice, because a queue means that the engine's batch is full.
    pub(crate) fn score(&self, now: Instant, stale_after: Duration) -> u64 {
        let waiting = self.fresh_engine(now).map_or(0, |engine| u64::from(engine.waiting));
        self.load(now, stale_after).0.saturating_add(waiting)
    }

    /// Marks the kernel's count as used. Returns its age if this is the first use and the count is not stale.
    pub(crate) fn use_kernel_count(&mut self, now: Instant, stale_after: Duration) -> Option<Duration> {
        if !std::mem::take(&mut self.kernel_unused) {
            return None;
        }
        self.fresh_kernel(now, stale_after).map(|kernel| age(now, kernel.measured))
    }

    pub(super) fn view(&self, now: Instant, stale_after: Duration) -> EndpointView {
        let (load, source) = self.load(now, stale_after);
        EndpointView {
            endpoint: self.endpoint.clone(),
            load,
            source,
            score: self.score(now, stale_after),
            gpu_lost: self.gpu_lost(now),
            open_picks: self.ledger.open(),
            picks_not_in_kernel: self.ledger.not_in_kernel(),
            kernel_in_flight: self.kernel.map(|kernel| kernel.in_flight),
            kernel_age: self.kernel.map(|kernel| age(now, kernel.measured)),
            engine_running: self.engine.map(|engine| engine.running),
            engine_waiting: self.engine.map(|engine| engine.waiting),
            engine_age: self.engine.map(|engine| age(now, engine.measured)),
        }
    }
}

fn age(now: Instant, measured: Instant) -> Duration {
    now.saturating_duration_since(measured)
}
