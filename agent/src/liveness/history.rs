//! What an endpoint did lately, and the rules of the verdict.

use forebay_telemetry::v1::{
    Endpoint, EngineLoad, KernelLoad, Liveness,
    LivenessReason::{self, Asleep, NoProgress, NotScraped, ResponsesSilent, ScrapesFail},
    LivenessState::{self, Alive, Stalled, Suspect},
};

use super::pace::{Pace, SECOND_NS};

/// Scrapes may fail for so long: a saturated server misses some.
const SCRAPES_FAIL_AFTER_NS: u64 = 3 * SECOND_NS;
/// Requests may wait for so long without progress. The counters of vLLM lag by a few seconds.
const NO_PROGRESS_AFTER_NS: u64 = 5 * SECOND_NS;
/// Likewise while the engine reports no request: the client may still send the body.
const NO_PROGRESS_IDLE_AFTER_NS: u64 = 30 * SECOND_NS;
/// Likewise if the engine cannot be scraped: an unstreamed response has no content until its end.
const NO_PROGRESS_UNSCRAPED_AFTER_NS: u64 = 60 * SECOND_NS;
/// Requests wait and the GPUs are idle for so long: nothing is computed.
const GPU_IDLE_AFTER_NS: u64 = 10 * SECOND_NS;
/// No step of the engine takes so long.
const NO_STEP_AFTER_NS: u64 = 60 * SECOND_NS;
/// A response after which the endpoint is alive without a scrape.
const RECENT_NS: u64 = 10 * SECOND_NS;
/// An engine without progress and without requests is tried again after so long, doubled with each try.
const RETRY_AFTER_NS: u64 = 60 * SECOND_NS;
const MAX_RETRY_DOUBLINGS: u32 = 4;

/// The counters that move when the engine works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    steps: Option<u64>,
    prompt_tokens: u64,
    generation_tokens: u64,
    requests_succeeded: u64,
}

impl Counters {
    fn of(engine: &EngineLoad) -> Self {
        Self {
            steps: engine.steps,
            prompt_tokens: engine.prompt_tokens,
            generation_tokens: engine.generation_tokens,
            requests_succeeded: engine.requests_succeeded,
        }
    }
}

/// What is remembered of one endpoint. All times are CLOCK_BOOTTIME.
#[derive(Debug)]
pub struct History {
    counters: Option<Counters>,
    /// Last progress, or the begin of the observation.
    progress_ns: u64,
    /// Last content of a response.
    content_ns: Option<u64>,
    /// Last scrape that was answered.
    answered_ns: Option<u64>,
    /// Since when the engine has requests.
    busy_since_ns: Option<u64>,
    /// Last time that the GPUs were not idle, as far as known.
    gpu_busy_ns: u64,
    pace: Pace,
    doubt: Option<Doubt>,
    verdict: Option<Liveness>,
}

/// A verdict for lack of progress. Progress ends it.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    reason: LivenessReason,
    /// Last time that requests waited.
    at_ns: u64,
    /// Times that the engine was tried again.
    retries: u32,
    is_over: bool,
}

type Verdict = (LivenessState, LivenessReason);

impl History {
    /// Nothing is known before `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self {
            counters: None,
            progress_ns: now_ns,
            content_ns: None,
            answered_ns: None,
            busy_since_ns: None,
            gpu_busy_ns: now_ns,
            pace: Pace::default(),
            doubt: None,
            verdict: None,
        }
    }

    /// Takes the newest values of the endpoint and returns the verdict. `gpu_utilization`: percent, the highest of its GPUs.
    pub fn judge(
        &mut self,
        endpoint: &Endpoint,
        gpu_utilization: Option<u32>,
        now_ns: u64,
    ) -> Option<Liveness> {
        self.observe(endpoint, gpu_utilization, now_ns);
        let is_asleep = endpoint.engine.as_ref().is_some_and(|engine| engine.sleeping == Some(true));
        let found = self.silence(endpoint).or_else(|| self.lack_of_progress(endpoint, now_ns));
        let verdict = is_asleep
            .then_some((Stalled, Asleep))
            .or_else(|| self.hold(found, is_busy(endpoint), now_ns))
            .or_else(|| self.lack_of_scrapes(endpoint, now_ns))
            .or_else(|| self.is_seen_alive(endpoint, now_ns).then_some((Alive, LivenessReason::Unspecified)));
        self.verdict = verdict.map(|(state, reason)| {
            let is_same = |it: &&Liveness| (it.state(), it.reason()) == (state, reason);
            let since_boottime_ns =
                self.verdict.as_ref().filter(is_same).map_or(now_ns, |it| it.since_boottime_ns);
            Liveness { state: state.into(), reason: reason.into(), since_boottime_ns }
        });
        self.verdict
    }

    fn observe(&mut self, endpoint: &Endpoint, gpu_utilization: Option<u32>, now_ns: u64) {
        let mut progressed_ns = None;
        if let Some(kernel) = &endpoint.kernel {
            let content_ns = kernel.last_content_boottime_ns;
            if content_ns > self.content_ns {
                self.content_ns = content_ns;
                progressed_ns = content_ns;
            }
            kernel.itl.iter().for_each(|itl| self.pace.learn(itl));
        }
        if let Some(engine) = &endpoint.engine {
            self.answered_ns = Some(engine.measured_boottime_ns);
            let counters = Counters::of(engine);
            if self.counters.replace(counters).is_some_and(|before| before != counters) {
                progressed_ns = progressed_ns.max(Some(engine.measured_boottime_ns));
            }
        }
        if let Some(at_ns) = progressed_ns.filter(|at_ns| *at_ns > self.progress_ns) {
            self.progress_ns = at_ns;
            self.doubt = None;
        }
        if !is_busy(endpoint) {
            self.busy_since_ns = None;
        } else if self.busy_since_ns.is_none() {
            self.busy_since_ns = Some(now_ns);
        }
        if gpu_utilization != Some(0) {
            self.gpu_busy_ns = now_ns;
        }
    }

    /// Responses have begun and are silent.
    fn silence(&self, endpoint: &Endpoint) -> Option<Verdict> {
        let kernel = endpoint.kernel.as_ref()?;
        if kernel.requests_with_response.unwrap_or_default() == 0 {
            return None;
        }
        // The values are those of the last reading, so the silence is too.
        let silence_ns = kernel.measured_boottime_ns.saturating_sub(self.progress_ns);
        if silence_ns <= self.pace.limit_ns() {
            return None;
        }
        let state = if endpoint.engine.as_ref().is_some_and(is_idle) { Suspect } else { Stalled };
        Some((state, ResponsesSilent))
    }

    /// Requests wait, and the engine does nothing that can be seen.
    fn lack_of_progress(&self, endpoint: &Endpoint, now_ns: u64) -> Option<Verdict> {
        let since_ns = waiting_since_ns(endpoint).or(self.busy_since_ns)?.max(self.progress_ns);
        let engine = endpoint.engine.as_ref();
        let after_ns = match engine {
            Some(engine) if is_idle(engine) => NO_PROGRESS_IDLE_AFTER_NS,
            Some(_) => NO_PROGRESS_AFTER_NS,
            None => NO_PROGRESS_UNSCRAPED_AFTER_NS,
        };
        let waited_ns = now_ns.saturating_sub(since_ns);
        if waited_ns <= after_ns.max(self.pace.learned_ns().unwrap_or_default()) {
            return None;
        }
        let is_gpu_idle = waited_ns.min(now_ns.saturating_sub(self.gpu_busy_ns)) > GPU_IDLE_AFTER_NS;
        let is_stuck =
            engine.is_some_and(|it| it.steps.is_some() && it.running > 0) && waited_ns > NO_STEP_AFTER_NS;
        Some((if is_gpu_idle || is_stuck { Stalled } else { Suspect }, NoProgress))
    }

    /// Keeps the doubt of an engine that lost its requests without progress, for example because their clients left.
    fn hold(&mut self, found: Option<Verdict>, is_busy: bool, now_ns: u64) -> Option<Verdict> {
        let retries = self.doubt.map_or(0, |doubt| doubt.retries);
        match (found, &mut self.doubt) {
            (Some((_, reason)), _) => {
                self.doubt = Some(Doubt { reason, at_ns: now_ns, retries, is_over: false });
                found
            }
            (None, Some(doubt)) if !doubt.is_over => {
                let retry_after_ns = RETRY_AFTER_NS << doubt.retries.min(MAX_RETRY_DOUBLINGS);
                if !is_busy && now_ns.saturating_sub(doubt.at_ns) > retry_after_ns {
                    doubt.is_over = true;
                    doubt.retries += 1;
                    return None;
                }
                Some((Suspect, doubt.reason))
            }
            (None, _) => None,
        }
    }

    fn lack_of_scrapes(&self, endpoint: &Endpoint, now_ns: u64) -> Option<Verdict> {
        endpoint.engine_off.as_ref()?;
        let Some(answered_ns) = self.answered_ns else {
            // A server without vLLM's metrics is known by its responses.
            return self.content_ns.is_none().then_some((Suspect, NotScraped));
        };
        let last_ns = answered_ns.max(self.content_ns.unwrap_or_default());
        (now_ns.saturating_sub(last_ns) > SCRAPES_FAIL_AFTER_NS).then_some((Suspect, ScrapesFail))
    }

    fn is_seen_alive(&self, endpoint: &Endpoint, now_ns: u64) -> bool {
        let is_recent = |at_ns: u64| now_ns.saturating_sub(at_ns) <= RECENT_NS;
        endpoint.engine.is_some()
            || self.answered_ns.is_some_and(is_recent)
            || self.content_ns.is_some_and(is_recent)
    }
}

fn is_busy(endpoint: &Endpoint) -> bool {
    endpoint.kernel.is_some_and(|kernel| kernel.in_flight > 0)
        || endpoint.engine.as_ref().is_some_and(|engine| !is_idle(engine))
}

fn is_idle(engine: &EngineLoad) -> bool {
    engine.running == 0 && engine.waiting == 0
}

fn waiting_since_ns(endpoint: &Endpoint) -> Option<u64> {
    endpoint.kernel.as_ref().and_then(|kernel: &KernelLoad| kernel.oldest_request_boottime_ns)
}
