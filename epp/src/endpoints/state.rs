//! State of one endpoint: reported load, own picks, and what was learned about its engine.

use std::time::{Duration, Instant};

use forebay_resources::PoolEndpoint;

use super::{
    adapters::Adapters,
    cell::Numbers,
    engine::{ENGINE_STALE_AFTER, EngineGauges, EngineView, Reading},
    ledger::{Ledger, PickId, Work},
    liveness::Verdict,
    models::ModelList,
    view::{EndpointView, LoadSource},
};
use crate::signals::{
    DEFAULT_PREFILL, DEFAULT_TOKEN, Failures, Mean, PrefillSpeed, Prior, Slot, TokenCount, TokenSpeed,
};

/// The kernel's count is not used after the engine has contradicted it for so long.
const DOUBT_AFTER: Duration = Duration::from_secs(3);

/// Requests counted at the pod's sockets.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelCount {
    pub(super) in_flight: u64,
    /// Requests started since the agent began to count.
    pub(super) started: u64,
    /// Bytes of requests without a first byte.
    pub(super) waiting_bytes: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) chunks: u64,
    /// Connections whose requests are not counted.
    pub(super) opaque_connections: u64,
    /// When the values were last confirmed, on the local clock.
    pub(super) measured: Instant,
}

/// What endpoints without own measurements start from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Priors {
    pub(crate) prefill: Prior,
    pub(crate) token: Prior,
    /// Tokens of a response.
    pub(crate) output_tokens: f64,
}

impl Default for Priors {
    fn default() -> Self {
        Self { prefill: DEFAULT_PREFILL, token: DEFAULT_TOKEN, output_tokens: 250.0 }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response is complete, or its status is not 5xx.
    Succeeded,
    /// A 5xx response, or the connection to the endpoint failed.
    Failed,
    /// The client left, or nothing is known.
    Unknown,
}

/// What is known about one endpoint of the pool.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(super) endpoint: PoolEndpoint,
    pub(super) slot: Slot,
    kernel: Option<KernelCount>,
    /// No pick has used the current kernel count yet.
    kernel_unused: bool,
    /// Since when the engine contradicts the kernel's count.
    doubted_since: Option<Instant>,
    pub(super) engine: EngineView,
    /// The report of a lost GPU expires, so that an agent that stopped does not exclude the endpoint forever.
    gpu_lost_until: Option<Instant>,
    verdict: Option<Verdict>,
    pub(super) models: Option<ModelList>,
    /// `None` if the engine has reported none.
    pub(super) adapters: Option<Adapters>,
    ledger: Ledger,
    foreign: Foreign,
    gauged: Gauged,
    prefill: PrefillSpeed,
    token: TokenSpeed,
    failures: Failures,
    /// Last sign of progress, or of having nothing to do.
    progress_at: Instant,
    /// Bodies of own requests that got their first byte since the last kernel count.
    finished_body_bytes: u64,
    /// Open own requests whose first byte is not reported, or that are not streamed.
    silent_picks: u64,
}

/// Requests of other pickers and clients, as of the last report.
#[derive(Clone, Copy, Debug, Default)]
struct Foreign {
    in_flight: f64,
    waiting: f64,
    backlog_bytes: f64,
}

/// What the engine's gauges contain beyond own requests. They lag, and contain own requests at some unknown time: single
/// readings mislead.
#[derive(Clone, Copy, Debug, Default)]
struct Gauged {
    in_flight: Mean,
    waiting: Mean,
}

impl EndpointState {
    pub(super) fn new(endpoint: PoolEndpoint, slot: Slot, now: Instant) -> Self {
        Self {
            endpoint,
            slot,
            kernel: None,
            kernel_unused: false,
            doubted_since: None,
            engine: EngineView::default(),
            gpu_lost_until: None,
            verdict: None,
            models: None,
            adapters: None,
            ledger: Ledger::default(),
            foreign: Foreign::default(),
            gauged: Gauged::default(),
            prefill: PrefillSpeed::new(),
            token: TokenSpeed::new(),
            failures: Failures::default(),
            progress_at: now,
            finished_body_bytes: 0,
            silent_picks: 0,
        }
    }

    pub(crate) fn gpu_lost(&self, now: Instant) -> bool {
        self.gpu_lost_until.is_some_and(|until| now <= until)
    }

    pub(super) fn set_gpu_lost_until(&mut self, until: Option<Instant>) {
        self.gpu_lost_until = until;
    }

    /// Takes the agent's verdict on the engine, as of `now`.
    pub(super) fn set_verdict(&mut self, verdict: Option<Verdict>, now: Instant) {
        if let Some(at) = verdict.and_then(|verdict| verdict.progress_at(now)) {
            self.progress_at = self.progress_at.max(at);
        }
        self.verdict = verdict;
    }

    pub(super) fn forget_verdict(&mut self) {
        self.verdict = None;
    }

    /// Replaces the kernel's count. `new_epoch`: the agent restarted since the count before.
    pub(super) fn set_kernel(&mut self, count: Option<KernelCount>, new_epoch: bool, priors: &Priors) {
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
            if let Some(old) = self.kernel.filter(|_| !has_restarted) {
                self.compare_counts(&old, new, priors);
            }
            self.count_foreign(new);
        }
        self.kernel_unused = count.is_some();
        self.kernel = count;
    }

    /// Learns from two counts.
    fn compare_counts(&mut self, old: &KernelCount, new: &KernelCount, priors: &Priors) {
        if new.bytes_out != old.bytes_out || new.in_flight == 0 || old.in_flight == 0 {
            self.progress_at = self.progress_at.max(new.measured);
        }
        let arrived = new.bytes_in.saturating_sub(old.bytes_in).saturating_add(old.waiting_bytes);
        let got_first_byte = arrived.saturating_sub(new.waiting_bytes);
        let foreign = got_first_byte.saturating_sub(std::mem::take(&mut self.finished_body_bytes));
        self.prefill.foreign_finished(foreign as f64 * self.engine.uncached_share());
        let waiting =
            if new.waiting_bytes > 0 { self.foreign.waiting + self.ledger.waiting() as f64 } else { 0.0 };
        let decoding = new.in_flight as f64 - waiting;
        let count = TokenCount { tokens: new.chunks, started: new.started, decoding, waiting };
        self.token.counted(count, priors.token, new.measured);
        // First bytes that no gateway reports: the kernel's waiting bytes show them, assumed in the order of arrival.
        while self.ledger.waiting_body_bytes() > new.waiting_bytes
            && let Some((oldest, at, work)) = self.ledger.oldest_waiting()
            && !work.reports_first_byte
            && at <= new.measured
        {
            self.first_byte(oldest, priors, new.measured);
        }
    }

    fn count_foreign(&mut self, count: &KernelCount) {
        if self.is_kernel_doubted() {
            return;
        }
        let in_flight = (count.in_flight.saturating_add(self.ledger.not_in_kernel()))
            .saturating_sub(self.ledger.open()) as f64;
        let bytes = count.waiting_bytes.saturating_sub(self.ledger.waiting_body_bytes()) as f64;
        // A request has a head too, so a few bytes are none.
        let waiting = if bytes < self.ledger.waiting() as f64 * MAX_HEAD_BYTES {
            0.0
        } else {
            (bytes / self.engine.mean_body_bytes()).ceil().min(in_flight)
        };
        let backlog_bytes = if waiting > 0.0 { bytes * self.engine.uncached_share() } else { 0.0 };
        self.foreign = Foreign { in_flight, waiting, backlog_bytes };
    }

    /// The kernel's count was unchanged at `measured`.
    pub(super) fn confirm_kernel(&mut self, measured: Instant) {
        if let Some(kernel) = &mut self.kernel
            && kernel.measured < measured
        {
            kernel.measured = measured;
            if kernel.in_flight == 0 {
                self.progress_at = self.progress_at.max(measured);
            }
            self.ledger.kernel_counted(0, measured);
            let kernel = *kernel;
            self.count_foreign(&kernel);
        }
    }

    pub(super) fn set_engine(&mut self, gauges: Option<EngineGauges>) -> Reading {
        let Some(gauges) = gauges else {
            self.engine.forget();
            return Reading::default();
        };
        if self.engine.has_read(&gauges) {
            return Reading::default();
        }
        let bytes_in = self.kernel.map(|kernel| kernel.bytes_in);
        let is_first = self.engine.gauges().is_none() || self.doubted_since.is_some();
        let reading = self.engine.read(gauges, bytes_in);
        if reading.has_progressed {
            self.progress_at = self.progress_at.max(gauges.measured);
        }
        if reading.has_restarted {
            self.prefill = PrefillSpeed::new();
            self.token = TokenSpeed::new();
            self.adapters = None;
        }
        self.doubt_kernel(&gauges);
        if self.fresh_kernel(gauges.measured, Duration::MAX).is_none() {
            if is_first {
                self.gauged = Gauged::default();
            }
            let engine_in_flight = f64::from(gauges.running) + f64::from(gauges.waiting);
            self.gauged.in_flight.add(engine_in_flight - self.ledger.open() as f64);
            self.gauged.waiting.add(f64::from(gauges.waiting) - self.ledger.waiting() as f64);
            let waiting = self.gauged.waiting.at_least();
            self.foreign = Foreign {
                in_flight: self.gauged.in_flight.at_least().max(waiting),
                waiting,
                backlog_bytes: waiting * self.engine.mean_body_bytes() * self.engine.uncached_share(),
            };
        }
        reading
    }

    /// A kernel that counts nothing while the engine works does not see the engine's sockets (a sandboxed runtime, TLS,
    /// HTTP/2).
    fn doubt_kernel(&mut self, gauges: &EngineGauges) {
        let contradicts = self.kernel.is_some_and(|kernel| {
            gauges.running > 0
                && (kernel.in_flight == 0 || kernel.opaque_connections > 0)
                && u64::from(gauges.running) > kernel.in_flight
        });
        self.doubted_since = match self.doubted_since {
            _ if !contradicts => None,
            None => Some(gauges.measured),
            since => since,
        };
    }

    /// The engine's gauges were unchanged at `measured`.
    pub(super) fn confirm_engine(&mut self, measured: Instant) {
        self.engine.confirm(measured);
    }

    pub(super) fn add_pick(&mut self, pick: PickId, now: Instant, work: Work) {
        if self.ledger.open() == 0 && self.foreign.in_flight < 1.0 {
            self.progress_at = self.progress_at.max(now);
        }
        if work.reports_first_byte {
            self.prefill.arrived(now);
        } else {
            self.silent_picks += 1;
        }
        self.engine.picked(work.body_bytes);
        self.failures.picked(now);
        self.ledger.add(pick, now, work);
    }

    /// The response's first byte is there.
    pub(super) fn first_byte(&mut self, pick: PickId, priors: &Priors, now: Instant) {
        let Some(work) = self.ledger.stop_waiting(pick) else { return };
        self.progress_at = self.progress_at.max(now);
        self.finished_body_bytes += work.body_bytes;
        self.engine.predicted_hit(work.cached_bytes);
        if work.reports_first_byte {
            self.prefill.finished(work.uncached_bytes as f64, self.ledger.waiting(), priors.prefill, now);
        }
    }

    /// Takes over a pick whose request this endpoint served.
    pub(super) fn add_served(&mut self, pick: PickId, at: Instant, work: Work) {
        if !work.reports_first_byte {
            self.silent_picks += 1;
        }
        self.ledger.add_served(pick, at, work);
    }

    pub(super) fn remove_pick(
        &mut self,
        pick: PickId,
        outcome: Outcome,
        now: Instant,
    ) -> Option<(Instant, Work)> {
        let had_first_byte = self.ledger.stop_waiting(pick).is_none();
        let removed = self.ledger.remove(pick)?;
        if !removed.1.reports_first_byte {
            self.silent_picks -= 1;
        }
        if !had_first_byte {
            self.prefill.gave_up(self.ledger.waiting(), now);
            self.finished_body_bytes += removed.1.body_bytes;
        }
        match outcome {
            Outcome::Succeeded => {
                if !had_first_byte {
                    // The gateway does not report first bytes. The engine has computed the prompt nevertheless.
                    self.engine.predicted_hit(removed.1.cached_bytes);
                }
                self.progress_at = self.progress_at.max(now);
                self.failures.succeeded();
            }
            Outcome::Failed => self.failures.failed(now),
            Outcome::Unknown => {}
        }
        Some(removed)
    }

    fn fresh_kernel(&self, now: Instant, stale_after: Duration) -> Option<&KernelCount> {
        let is_doubted = self.is_kernel_doubted();
        self.kernel.as_ref().filter(|kernel| !is_doubted && age(now, kernel.measured) <= stale_after)
    }

    fn is_kernel_doubted(&self) -> bool {
        let contradicted_at = self.engine.gauges().map(|gauges| gauges.measured);
        let doubted = self.doubted_since.zip(contradicted_at);
        doubted.is_some_and(|(since, until)| age(until, since) >= DOUBT_AFTER)
    }

    /// Requests in flight, from the best source that is not stale.
    fn load(&self, now: Instant, stale_after: Duration) -> (u64, LoadSource) {
        let own = self.ledger.open();
        if let Some(kernel) = self.fresh_kernel(now, stale_after) {
            let count = kernel.in_flight.saturating_add(self.ledger.not_in_kernel());
            return (count.max(own), LoadSource::Kernel);
        }
        if self.engine.fresh(now).is_some() {
            return (own.saturating_add(self.foreign.in_flight.round() as u64), LoadSource::Engine);
        }
        (own, LoadSource::Local)
    }

    /// Marks the kernel's count as used. Returns its age if this is the first use and the count is not stale.
    pub(crate) fn use_kernel_count(&mut self, now: Instant, stale_after: Duration) -> Option<Duration> {
        if !std::mem::take(&mut self.kernel_unused) {
            return None;
        }
        self.fresh_kernel(now, stale_after).map(|kernel| age(now, kernel.measured))
    }

    /// The measured speeds, for endpoints that have none.
    pub(super) fn measured_prefill(&self, priors: &Priors) -> Option<Prior> {
        self.prefill.measured(priors.prefill)
    }

    /// See [`EndpointState::measured_prefill`].
    pub(super) fn measured_token(&self, priors: &Priors) -> Option<Prior> {
        self.token.measured(priors.token)
    }

    /// The numbers that picks compare. `base`: zero of the times.
    pub(super) fn numbers(&self, priors: &Priors, base: Instant, stale_after: Duration) -> Numbers {
        let seconds = |at: Instant| signed_seconds(at, base);
        let prefill = self.prefill.fit(priors.prefill);
        let token = self.token.fit(priors.token);
        let head = self.ledger.oldest_waiting().map_or(0, |(_, _, work)| work.uncached_bytes);
        let engine = self.engine.gauges();
        let kernel = self.fresh_kernel(self.progress_at, Duration::MAX);
        let in_flight = self.ledger.open() as f64 + self.foreign.in_flight;
        // Without the kernel's count the tokens of a response are not visible.
        let decode = if self.silent_picks > 0 || self.foreign.in_flight >= 1.0 || kernel.is_none() {
            priors.output_tokens * token.at(in_flight)
        } else {
            2.0 * token.at(in_flight)
        };
        let foreign_until = match (kernel, engine) {
            (Some(kernel), _) => Some(kernel.measured + stale_after),
            (None, Some(engine)) => Some(engine.measured + ENGINE_STALE_AFTER),
            (None, None) => None,
        };
        Numbers {
            own_in_flight: self.ledger.open() as f32,
            own_prompt_bytes: self.ledger.prompt_bytes() as f32,
            own_backlog_bytes: self.ledger.waiting_uncached_bytes() as f32,
            own_head_bytes: head as f32,
            own_waiting: self.ledger.waiting() as f32,
            foreign_in_flight: self.foreign.in_flight as f32,
            foreign_backlog_bytes: self.foreign.backlog_bytes as f32,
            foreign_waiting: self.foreign.waiting as f32,
            prefill_base: prefill.base as f32,
            prefill_per_byte: prefill.slope as f32,
            token_base: token.base as f32,
            token_per_request: token.slope as f32,
            output_tokens: priors.output_tokens as f32,
            expected_silence: (prefill.at(head as f64) + decode) as f32,
            belief: self.engine.belief() as f32,
            running: engine.map_or(f32::NAN, |engine| engine.running as f32),
            queued: engine.map_or(f32::NAN, |engine| engine.waiting as f32),
            kv_usage: engine.and_then(|engine| engine.kv_usage).map_or(f32::NAN, |usage| usage as f32),
            kv_bytes: self.engine.capacity_bytes().map_or(f32::NAN, |bytes| bytes as f32),
            progress_at: seconds(self.progress_at),
            head_since: self.prefill.busy_since().map_or(f64::INFINITY, seconds),
            foreign_until: foreign_until.map_or(f64::NEG_INFINITY, seconds),
            engine_until: engine.map_or(f64::NEG_INFINITY, |it| seconds(it.measured + ENGINE_STALE_AFTER)),
            lost_until: self.gpu_lost_until.map_or(f64::NEG_INFINITY, seconds),
            failing_until: self.failures.until().map_or(f64::NEG_INFINITY, seconds),
            stalled_until: self.verdict.and_then(|it| it.stalled_until()).map_or(f64::NEG_INFINITY, seconds),
            suspect_until: self.verdict.and_then(|it| it.suspect_until()).map_or(f64::NEG_INFINITY, seconds),
        }
    }

    pub(super) fn view(&self, now: Instant, stale_after: Duration, added_waiting: f32) -> EndpointView {
        let (load, source) = self.load(now, stale_after);
        let engine = self.engine.gauges();
        EndpointView {
            endpoint: self.endpoint.clone(),
            load,
            source,
            added_waiting,
            gpu_lost: self.gpu_lost(now),
            failing: self.failures.until().is_some_and(|until| now < until),
            liveness: self.verdict.and_then(|verdict| verdict.fresh(now).copied()),
            liveness_age: self.verdict.and_then(|it| it.since).map(|since| age(now, since)),
            open_picks: self.ledger.open(),
            waiting_picks: self.ledger.waiting(),
            picks_not_in_kernel: self.ledger.not_in_kernel(),
            kernel_in_flight: self.kernel.map(|kernel| kernel.in_flight),
            kernel_age: self.kernel.map(|kernel| age(now, kernel.measured)),
            engine_running: engine.map(|engine| engine.running),
            engine_waiting: engine.map(|engine| engine.waiting),
            engine_kv_usage: engine.and_then(|engine| engine.kv_usage),
            engine_is_fresh: self.engine.fresh(now).is_some(),
            engine_age: engine.map(|engine| age(now, engine.measured)),
            prefix_hits: self.engine.prefix_hits(),
            prefix_belief: self.engine.belief(),
        }
    }
}

/// About the bytes of the head of a request.
const MAX_HEAD_BYTES: f64 = 1024.0;

fn age(now: Instant, measured: Instant) -> Duration {
    now.saturating_duration_since(measured)
}

/// Negative before `base`.
pub(super) fn signed_seconds(at: Instant, base: Instant) -> f64 {
    match at.checked_duration_since(base) {
        Some(after) => after.as_secs_f64(),
        None => -base.saturating_duration_since(at).as_secs_f64(),
    }
}
