//! The simulated engine: a queue, a batch of bounded size, a KV cache with prefix reuse, and delays.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use forebay_routing_sim::{EngineSpec, engine::TooLong};

use crate::{
    live::Live,
    prompt::Prompt,
    speed::Speed,
    steps::{StepRequest, Steps},
};

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Maximum requests in the batch (`--max-num-seqs`). Others wait in FIFO order.
    pub max_num_seqs: u32,
    /// Maximum waiting requests (`--max-num-queued-reqs`). `None`: no limit.
    pub max_num_queued_reqs: Option<u32>,
    pub max_model_len: u32,
    pub block_size: u32,
    pub num_gpu_blocks: u32,
    /// Prompt tokens computed per second. Cached blocks cost nothing.
    pub prefill_tokens_per_second: u32,
    /// Time between two tokens of a request.
    pub token_interval: Duration,
    /// Requests share the steps of this engine. `None`: each request has the speed that the other options give it.
    pub steps: Option<EngineSpec>,
}

/// Tokens of a prompt that are computed in one step (`--max-num-batched-tokens`).
const TOKENS_PER_STEP: u32 = 2048;

/// One engine, shared by all connections.
#[derive(Debug)]
pub struct Engine {
    pub(crate) options: EngineOptions,
    pub(crate) live: Live,
    pub(crate) speed: Speed,
    batch: Semaphore,
    cache: Mutex<PrefixCache>,
    steps: Option<Steps>,
}

/// The queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl Engine {
    pub fn new(mut options: EngineOptions) -> Arc<Self> {
        if let Some(spec) = &options.steps {
            (options.block_size, options.num_gpu_blocks) = (spec.block_size, spec.num_blocks);
            options.max_model_len =
                options.max_model_len.min(spec.num_blocks.saturating_mul(spec.block_size));
        }
        let cache =
            PrefixCache { known: HashSet::new(), order: VecDeque::new(), bound: options.num_gpu_blocks };
        Arc::new(Self {
            batch: Semaphore::new(options.max_num_seqs as usize),
            cache: Mutex::new(cache),
            live: Live::default(),
            speed: Speed::normal(),
            steps: options.steps.clone().map(Steps::new),
            options,
        })
    }

    /// Runs the steps, if the engine has some.
    pub(crate) async fn run(&self) {
        match &self.steps {
            Some(steps) => steps.run(&self.live, &self.speed).await,
            None => std::future::pending().await,
        }
    }

    /// The prompt as the engine takes it.
    pub(crate) fn prompt(&self, text: &str) -> Prompt {
        match self.steps {
            Some(_) => Prompt::in_units(text),
            None => Prompt::new(text, self.options.block_size),
        }
    }

    /// Adds a request to the queue.
    pub(crate) fn enqueue(&self) -> Result<Waiting<'_>, Busy> {
        if self.steps.is_some() {
            return Ok(Waiting { engine: self });
        }
        let waiting = self.live.waiting.fetch_add(1, Relaxed);
        let guard = Waiting { engine: self };
        let full = self.batch.available_permits() == 0
            && self.options.max_num_queued_reqs.is_some_and(|bound| waiting >= u64::from(bound));
        if full { Err(Busy) } else { Ok(guard) }
    }
}

/// A waiting request. Drop removes it from the queue.
pub(crate) struct Waiting<'a> {
    engine: &'a Engine,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // The steps set the gauges themselves.
        if self.engine.steps.is_none() {
            self.engine.live.waiting.fetch_sub(1, Relaxed);
        }
    }
}

impl<'a> Waiting<'a> {
    /// Waits until the batch has room, then computes the prompt.
    ///
    /// # Errors
    ///
    /// The request needs more blocks than the engine has.
    pub(crate) async fn prefill(self, prompt: &Prompt, output_tokens: u32) -> Result<Running<'a>, TooLong> {
        let Some(steps) = &self.engine.steps else { return Ok(self.alone(prompt).await) };
        let mut request = steps.submit(prompt, output_tokens)?;
        request.first().await;
        Ok(Running { engine: self.engine, held: Held::Step(request) })
    }

    /// Waits until the batch has room, then computes the prompt as if it were the only one.
    async fn alone(self, prompt: &Prompt) -> Running<'a> {
        let engine = self.engine;
        let prompt_tokens = prompt.tokens;
        // Never an error: the semaphore is never closed.
        let permit = engine.batch.acquire().await.ok();
        drop(self);
        let live = &engine.live;
        live.running.fetch_add(1, Relaxed);
        let cached_blocks = engine.cache.lock().unwrap_or_else(PoisonError::into_inner).admit(&prompt.blocks);
        let cached = (cached_blocks * engine.options.block_size).min(prompt_tokens);
        let blocks = u64::from(prompt_tokens.div_ceil(engine.options.block_size));
        live.blocks_used.fetch_add(blocks, Relaxed);
        live.prompt_tokens.fetch_add(u64::from(prompt_tokens), Relaxed);
        live.cached_tokens.fetch_add(u64::from(cached), Relaxed);
        let running = Running { engine, held: Held::Batch { _permit: permit, blocks } };
        let mut uncached = prompt_tokens - cached;
        loop {
            let part = uncached.min(TOKENS_PER_STEP);
            let compute = f64::from(part) / f64::from(engine.options.prefill_tokens_per_second.max(1));
            engine.speed.work(Duration::from_secs_f64(compute)).await;
            live.steps.fetch_add(1, Relaxed);
            uncached -= part;
            if uncached == 0 {
                return running;
            }
        }
    }
}

/// A request in the batch. Drop removes it and frees its blocks.
pub(crate) struct Running<'a> {
    engine: &'a Engine,
    held: Held<'a>,
}

/// What a request in the batch holds.
enum Held<'a> {
    Batch { _permit: Option<SemaphorePermit<'a>>, blocks: u64 },
    Step(StepRequest<'a>),
}

impl Running<'_> {
    /// One decoding step.
    pub(crate) async fn token(&mut self) {
        if let Held::Step(request) = &mut self.held {
            return request.token().await;
        }
        self.engine.speed.work(self.engine.options.token_interval).await;
        self.engine.live.generation_tokens.fetch_add(1, Relaxed);
        self.engine.live.steps.fetch_add(1, Relaxed);
    }

    /// Counts the request as completed.
    pub(crate) fn succeed(self) {
        self.engine.live.succeeded.fetch_add(1, Relaxed);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Held::Batch { blocks, .. } = self.held {
            self.engine.live.running.fetch_sub(1, Relaxed);
            self.engine.live.blocks_used.fetch_sub(blocks, Relaxed);
        }
    }
}

/// Hashes of cached blocks. The oldest are evicted first.
#[derive(Debug)]
struct PrefixCache {
    known: HashSet<u64>,
    order: VecDeque<u64>,
    bound: u32,
}

impl PrefixCache {
    /// Adds the blocks. Returns the number of leading blocks that were cached before.
    fn admit(&mut self, blocks: &[u64]) -> u32 {
        let cached = blocks.iter().take_while(|block| self.known.contains(block)).count() as u32;
        for &block in blocks {
            if self.known.insert(block) {
                self.order.push_back(block);
            }
        }
        while self.order.len() > self.bound as usize {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(max_num_seqs: u32, max_num_queued_reqs: Option<u32>) -> Arc<Engine> {
        Engine::new(EngineOptions {
            max_num_seqs,
            max_num_queued_reqs,
            max_model_len: 2048,
            block_size: 4,
            num_gpu_blocks: 3,
            prefill_tokens_per_second: 1_000_000,
            token_interval: Duration::ZERO,
            steps: None,
        })
    }

    #[tokio::test]
    async fn full_batch_queues_requests_and_full_queue_rejects_them() {
        let engine = engine(1, Some(1));
        let first = engine.enqueue().unwrap().prefill(&Prompt::new("abcd", 4), 1).await.unwrap();
        let second = engine.enqueue().unwrap();
        assert_eq!(engine.enqueue().err(), Some(Busy));
        assert_eq!((engine.live.running.load(Relaxed), engine.live.waiting.load(Relaxed)), (1, 1));
        first.succeed();
        let second = second.prefill(&Prompt::new("abcd", 4), 1).await.unwrap();
        assert_eq!((engine.live.running.load(Relaxed), engine.live.waiting.load(Relaxed)), (1, 0));
        drop(second);
        assert_eq!((engine.live.running.load(Relaxed), engine.live.blocks_used.load(Relaxed)), (0, 0));
        assert_eq!(engine.live.succeeded.load(Relaxed), 1);
    }

    #[test]
    fn caches_prefix_until_eviction() {
        let mut cache = PrefixCache { known: HashSet::new(), order: VecDeque::new(), bound: 3 };
        assert_eq!(cache.admit(&[1, 2]), 0);
        assert_eq!(cache.admit(&[1, 2, 3]), 2);
        assert_eq!(cache.admit(&[9, 2]), 0, "only leading blocks count");
        assert_eq!(cache.admit(&[1]), 0, "evicted");
    }
}
