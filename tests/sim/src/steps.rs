//! The engine in steps: the model of vLLM's scheduler in forebay-routing-sim, in real time.
//!
//! Prompts and tokens of all requests share the steps, so requests slow each other down.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use forebay_routing_sim::{
    EngineSpec, RequestId, Time,
    engine::{self, Engine, Event, Job},
    router::BlockHash,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{live::Live, prompt::Prompt, speed::Speed};

/// Time between two readings of the speed while the engine hangs.
const POLL: Duration = Duration::from_millis(20);

/// The engine and its requests.
#[derive(Debug)]
pub(crate) struct Steps {
    state: Mutex<State>,
    /// The engine was idle and has a request.
    submitted: Notify,
    began: Instant,
}

#[derive(Debug)]
struct State {
    engine: Engine,
    /// Generated tokens of each request.
    requests: HashMap<u64, watch::Sender<u32>>,
    next: u64,
    is_frozen: bool,
}

impl Steps {
    pub(crate) fn new(spec: EngineSpec) -> Self {
        Self {
            state: Mutex::new(State {
                engine: Engine::new(spec),
                requests: HashMap::new(),
                next: 0,
                is_frozen: false,
            }),
            submitted: Notify::new(),
            began: Instant::now(),
        }
    }

    /// Adds a request to the queue. `prompt`: in units.
    ///
    /// # Errors
    ///
    /// The request needs more blocks than the engine has.
    pub(crate) fn submit(
        &self,
        prompt: &Prompt,
        output_tokens: u32,
    ) -> Result<StepRequest<'_>, engine::TooLong> {
        let mut state = self.lock();
        let request = RequestId(state.next);
        state.next += 1;
        let job = Job {
            request,
            prompt: prompt.blocks.iter().map(|&unit| BlockHash(unit)).collect(),
            prompt_tokens: prompt.tokens,
            output_tokens,
            reply: [].into(),
            bytes: 0,
        };
        state.engine.submit(self.now(), job)?;
        let (sender, generated) = watch::channel(0);
        state.requests.insert(request.0, sender);
        drop(state);
        self.submitted.notify_one();
        Ok(StepRequest { steps: self, request, generated, taken: 0 })
    }

    /// Runs the engine and publishes its counters.
    pub(crate) async fn run(&self, live: &Live, speed: &Speed) {
        let mut events = Vec::new();
        loop {
            let wait = self.wait(speed);
            match wait {
                Wait::Step(end) if end > self.now() => {
                    tokio::time::sleep_until(self.began + (end - Time::ZERO)).await;
                }
                // Steps end at their own time, whenever the timer fires: the engine keeps its speed.
                Wait::Step(end) => self.advance(end, &mut events, live),
                Wait::Request => self.submitted.notified().await,
                Wait::Speed => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn wait(&self, speed: &Speed) -> Wait {
        let mut state = self.lock();
        let percent = speed.percent();
        if percent == 0 {
            state.engine.freeze();
            state.is_frozen = true;
            return Wait::Speed;
        }
        state.engine.set_speed(f64::from(percent) / 100.0);
        // Thawing moves the end of a step that is late to the present.
        if std::mem::take(&mut state.is_frozen) {
            state.engine.thaw(self.now());
        }
        state.engine.step_ends_at().map_or(Wait::Request, Wait::Step)
    }

    fn advance(&self, end: Time, events: &mut Vec<Event>, live: &Live) {
        let mut state = self.lock();
        let State { engine, requests, .. } = &mut *state;
        engine.advance(end, events);
        for event in events.drain(..) {
            if let Event::Completed { request } = event
                && let Some(generated) = requests.remove(&request.0)
            {
                generated.send_replace(u32::MAX);
            }
        }
        for (request, sender) in requests.iter() {
            let generated = engine.generated(RequestId(*request)).unwrap_or_default();
            sender.send_if_modified(|before| std::mem::replace(before, generated) != generated);
        }
        let view = engine.scrape(end);
        live.running.store(view.running.into(), Relaxed);
        live.waiting.store(view.waiting.into(), Relaxed);
        let used = view.kv_cache_usage * f64::from(view.num_gpu_blocks);
        live.blocks_used.store(used as u64, Relaxed);
        live.prompt_tokens.store(view.prefix_cache_queries, Relaxed);
        live.cached_tokens.store(view.prefix_cache_hits, Relaxed);
        live.generation_tokens.store(view.generation_tokens, Relaxed);
        live.steps.store(view.steps, Relaxed);
    }

    fn now(&self) -> Time {
        Time::ZERO + self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the engine waits for.
enum Wait {
    Step(Time),
    Request,
    Speed,
}

/// A request of the engine. Drop aborts it.
#[derive(Debug)]
pub(crate) struct StepRequest<'a> {
    steps: &'a Steps,
    request: RequestId,
    generated: watch::Receiver<u32>,
    /// Tokens that [`Self::token`] has returned.
    taken: u32,
}

impl StepRequest<'_> {
    /// Waits for the first token: the prompt is computed.
    pub(crate) async fn first(&mut self) {
        self.wait_for(1).await;
    }

    /// Waits for the next token.
    pub(crate) async fn token(&mut self) {
        self.wait_for(self.taken + 1).await;
        self.taken += 1;
    }

    async fn wait_for(&mut self, tokens: u32) {
        // The sender is kept until the value is the last one.
        let _ = self.generated.wait_for(|generated| *generated >= tokens).await;
    }
}

impl Drop for StepRequest<'_> {
    fn drop(&mut self) {
        let mut state = self.steps.lock();
        state.engine.abort(self.request);
        state.requests.remove(&self.request.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// One step of 10 ms for up to 100 tokens of prompts, and for a token of each request.
    fn spec() -> EngineSpec {
        EngineSpec {
            max_num_batched_tokens: 100,
            max_num_seqs: 4,
            block_size: 16,
            num_blocks: 1_000,
            step_fixed_ns: 1e7,
            prefill_tokens_per_s: 1e9,
            per_sequence_ns: 0.0,
            per_kv_token_ns: 0.0,
        }
    }

    struct Running(Arc<Steps>, tokio::task::JoinHandle<()>);

    impl Running {
        fn start() -> Self {
            let steps = Arc::new(Steps::new(spec()));
            let run = {
                let steps = Arc::clone(&steps);
                async move { steps.run(&Live::default(), &Speed::normal()).await }
            };
            Self(steps, tokio::spawn(run))
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.1.abort();
        }
    }

    #[tokio::test]
    async fn prompts_share_steps_and_tokens_come_one_by_step() {
        let running = Running::start();
        let (long, short) = ("a".repeat(200 * 4), "b".repeat(50 * 4));
        let began = Instant::now();
        let mut long = running.0.submit(&Prompt::in_units(&long), 3).unwrap();
        let mut short = running.0.submit(&Prompt::in_units(&short), 5).unwrap();
        long.first().await;
        assert!(
            began.elapsed() >= Duration::from_millis(20),
            "two steps for 200 tokens: {:?}",
            began.elapsed()
        );
        short.first().await;
        assert!(
            began.elapsed() >= Duration::from_millis(30),
            "it waits for the long one: {:?}",
            began.elapsed()
        );
        for _ in 0..5 {
            short.token().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(70), "four more steps: {:?}", began.elapsed());
        for _ in 0..3 {
            long.token().await;
        }
    }

    #[tokio::test]
    async fn dropped_requests_leave_the_engine() {
        let running = Running::start();
        drop(running.0.submit(&Prompt::in_units(&"a".repeat(4_000)), 3).unwrap());
        assert!(running.0.lock().requests.is_empty());
        let mut next = running.0.submit(&Prompt::in_units("b"), 1).unwrap();
        next.first().await;
        // One of the long prompt, which had begun, and its own. The long one has ten.
        assert_eq!(running.0.lock().engine.scrape(Time::ZERO).steps, 2);
    }
}
