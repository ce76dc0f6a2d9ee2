//! One endpoint: who it is, what is known of its load, and what that adds up to.

use std::time::{Duration, Instant};

use forebay_resources::PoolEndpoint;

use super::ledger::{Ledger, PickId};

/// How old the engine's own gauges may be. They lag by seconds at the best of
/// times, so this is no place to be strict.
const ENGINE_STALE: Duration = Duration::from_secs(5);

/// Where a load comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LoadSource {
    /// Counted at the pod's sockets, plus picks the count does not have yet.
    Kernel,
    /// The engine's gauges, plus picks they do not have yet.
    Engine,
    /// Only what was picked here.
    Local,
}

impl LoadSource {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Engine => "engine",
            Self::Local => "local",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct KernelCount {
    pub(super) in_flight: u64,
    pub(super) started: u64,
    /// When it was last known to hold, on this machine's clock.
    pub(super) measured: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct EngineGauges {
    pub(super) running: u32,
    pub(super) waiting: u32,
    pub(super) measured: Instant,
}

/// An endpoint for people and tests, as it was at one moment.
#[derive(Clone, Debug)]
pub struct EndpointView {
    pub endpoint: PoolEndpoint,
    pub load: u64,
    pub source: LoadSource,
    /// What picks compare.
    pub score: u64,
    pub gpu_lost: bool,
    pub open_picks: u64,
    pub picks_beside_kernel: u64,
    pub kernel_in_flight: Option<u64>,
    pub kernel_age: Option<Duration>,
    pub engine_running: Option<u32>,
    pub engine_waiting: Option<u32>,
    pub engine_age: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(super) endpoint: PoolEndpoint,
    kernel: Option<KernelCount>,
    /// The count has changed since a pick last looked at it.
    kernel_unused: bool,
    engine: Option<EngineGauges>,
    /// Believed until then: a dead agent's word must not exclude for ever.
    gpu_lost_until: Option<Instant>,
    ledger: Ledger,
}

impl Slot {
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

    /// A whole new count, or that there is none any more. `new_epoch`: the
    /// agent's life is another than that of the count before.
    pub(super) fn set_kernel(&mut self, count: Option<KernelCount>, new_epoch: bool) {
        if let Some(new) = &count {
            let began_anew = match &self.kernel {
                Some(old) if new.started < old.started => true,
                Some(_) if !new_epoch => false,
                // Nothing says whether a new life counts on from the old one;
                // fewer requests than are known to be open says no.
                _ => self.ledger.seen_by_kernel() > new.in_flight,
            };
            let before = if began_anew { 0 } else { self.kernel.map_or(new.started, |old| old.started) };
            if began_anew {
                self.ledger.kernel_began_anew();
            }
            self.ledger.kernel_counted(new.started.saturating_sub(before), new.measured);
        }
        self.kernel_unused = count.is_some();
        self.kernel = count;
    }

    /// The count still held at `measured`.
    pub(super) fn kernel_still_holds(&mut self, measured: Instant) {
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

    pub(super) fn engine_still_holds(&mut self, measured: Instant) {
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
        self.engine.as_ref().filter(|engine| age(now, engine.measured) <= ENGINE_STALE)
    }

    /// Requests in flight, and who says so.
    fn load(&self, now: Instant, stale_after: Duration) -> (u64, LoadSource) {
        if let Some(kernel) = self.fresh_kernel(now, stale_after) {
            return (kernel.in_flight.saturating_add(self.ledger.beside_kernel()), LoadSource::Kernel);
        }
        if let Some(engine) = self.fresh_engine(now) {
            let engine_load =
                u64::from(engine.running) + u64::from(engine.waiting) + self.ledger.beside_engine();
            return (engine_load.max(self.ledger.open()), LoadSource::Engine);
        }
        (self.ledger.open(), LoadSource::Local)
    }

    /// What picks compare: the load, and the engine's queue once more, because
    /// a queue means that the engine's batch is full.
    pub(crate) fn score(&self, now: Instant, stale_after: Duration) -> u64 {
        let waiting = self.fresh_engine(now).map_or(0, |engine| u64::from(engine.waiting));
        self.load(now, stale_after).0.saturating_add(waiting)
    }

    /// The age of a fresh kernel count that no pick has looked at before.
    pub(crate) fn first_use(&mut self, now: Instant, stale_after: Duration) -> Option<Duration> {
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
            picks_beside_kernel: self.ledger.beside_kernel(),
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
