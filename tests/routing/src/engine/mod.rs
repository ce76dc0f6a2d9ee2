//! One vLLM engine as a model of its V1 scheduler: a loop of steps with a token budget, chunked prefill, continuous
//! batching, a paged KV cache with prefix caching, and preemption by recomputation.
//!
//! Decoding sequences advance together, one token per step, so a step costs constant time however many decode: a
//! sequence is stored with the step at which it ends, and blocks are allocated from counts per block phase.

mod cache;
mod schedule;
mod sequence;
mod spec;
mod step;
mod views;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

pub use sequence::Job;
pub use spec::EngineSpec;

use crate::{
    hashing::IntMap,
    router::{EngineView, RequestId, Time},
};
use cache::Cache;
use sequence::{Sequence, Slot, State};
use step::Step;
use views::Sockets;

/// What happened at the end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    FirstByte {
        request: RequestId,
        /// Prompt tokens that were in the cache.
        cached_tokens: u32,
    },
    Completed {
        request: RequestId,
    },
}

/// The sequence needs more blocks than the engine has.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

#[derive(Debug)]
pub struct Engine {
    spec: EngineSpec,
    speed: f64,
    frozen: bool,
    cache: Cache,
    sequences: Vec<Sequence>,
    spare: Vec<Slot>,
    by_request: IntMap<Slot>,
    waiting: VecDeque<Slot>,
    /// Running sequences whose prompt is not computed, in order of admission.
    prefilling: Vec<Slot>,
    decoding: Vec<Slot>,
    /// Last decode step of each decoding sequence. Entries with an old serial are stale.
    ends: BinaryHeap<Reverse<(u64, u64, Slot)>>,
    /// Decode steps scheduled so far.
    decode_steps: u64,
    /// Decoding sequences that need a block at decode steps with this remainder modulo the block size.
    block_phases: Vec<u32>,
    /// Tokens in the KV cache of decoding sequences.
    kv_tokens: u64,
    next_serial: u64,
    step: Option<Step>,
    counters: EngineView,
    /// Gauges and counters as of the last finished step.
    published: EngineView,
    sockets: Sockets,
}

impl Engine {
    pub fn new(spec: EngineSpec) -> Self {
        let phases = vec![0; spec.block_size as usize];
        let counters = EngineView {
            block_size_tokens: spec.block_size,
            num_gpu_blocks: spec.num_blocks,
            ..EngineView::default()
        };
        Self {
            speed: 1.0,
            frozen: false,
            cache: Cache::new(spec.num_blocks),
            sequences: Vec::new(),
            spare: Vec::new(),
            by_request: IntMap::default(),
            waiting: VecDeque::new(),
            prefilling: Vec::new(),
            decoding: Vec::new(),
            ends: BinaryHeap::new(),
            decode_steps: 0,
            block_phases: phases,
            kv_tokens: 0,
            next_serial: 0,
            step: None,
            counters,
            published: counters,
            sockets: Sockets::default(),
            spec,
        }
    }

    /// Adds a request to the queue, and starts a step if the engine is idle.
    pub fn submit(&mut self, now: Time, job: Job) -> Result<(), TooLong> {
        self.sockets.started(now, &job);
        if (job.prompt_tokens + job.output_tokens).div_ceil(self.spec.block_size) > self.spec.num_blocks {
            self.sockets.rejected(now, job.bytes);
            return Err(TooLong);
        }
        let request = job.request;
        let serial = self.serial();
        let sequence = Sequence::new(job, now, serial);
        let slot = match self.spare.pop() {
            Some(slot) => {
                self.sequences[slot as usize] = sequence;
                slot
            }
            None => {
                self.sequences.push(sequence);
                self.sequences.len() as Slot - 1
            }
        };
        self.by_request.insert(request.0, slot);
        self.waiting.push_back(slot);
        if self.step.is_none() && !self.frozen {
            self.begin_step(now);
        }
        Ok(())
    }

    /// The client closed the connection. Returns false if the request has ended before.
    pub fn abort(&mut self, request: RequestId) -> bool {
        let Some(&slot) = self.by_request.get(&request.0) else { return false };
        self.leave(slot);
        let sequence = &self.sequences[slot as usize];
        self.sockets.aborted(sequence.first_byte_at.is_none(), sequence.job.bytes);
        self.forget(slot);
        true
    }

    /// End of the current step. `None` if the engine is idle or frozen.
    pub fn step_ends_at(&self) -> Option<Time> {
        self.step.as_ref().filter(|_| !self.frozen).map(|step| step.ends_at)
    }

    /// Finishes the current step and begins the next one.
    pub fn advance(&mut self, now: Time, events: &mut Vec<Event>) {
        if self.frozen {
            return;
        }
        if let Some(step) = self.step.take() {
            self.finish_step(now, &step, events);
        }
        self.begin_step(now);
    }

    /// Changes the speed from the next step on.
    pub fn set_speed(&mut self, speed: f64) {
        self.speed = speed;
    }

    /// Stops all progress. Connections stay open, and `/metrics` repeats its last values.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    pub fn thaw(&mut self, now: Time) {
        self.frozen = false;
        match &mut self.step {
            Some(step) => step.ends_at = step.ends_at.max(now),
            None => self.begin_step(now),
        }
    }

    /// Starts again with an empty cache. Returns the requests that it lost, oldest first.
    pub fn restart(&mut self) -> Vec<RequestId> {
        let mut lost: Vec<_> = self.by_request.keys().map(|&id| RequestId(id)).collect();
        lost.sort_unstable();
        *self = Self::new(self.spec.clone());
        lost
    }

    /// Requests that have begun their response and are not complete, oldest first.
    pub fn begun(&self) -> Vec<RequestId> {
        let mut begun: Vec<_> = self
            .by_request
            .iter()
            .filter(|&(_, &slot)| self.sequences[slot as usize].first_byte_at.is_some())
            .map(|(&id, _)| RequestId(id))
            .collect();
        begun.sort_unstable();
        begun
    }

    /// Tokens that the request has generated so far. `None` if it has ended, or was never submitted.
    pub fn generated(&self, request: RequestId) -> Option<u32> {
        let sequence = &self.sequences[*self.by_request.get(&request.0)? as usize];
        let stepped = match sequence.state {
            // The current step counts when it ends.
            State::Decoding { joined_at, .. } => {
                (self.decode_steps - joined_at).saturating_sub(u64::from(self.step.is_some())) as u32
            }
            State::Waiting | State::Prefilling => 0,
        };
        Some(sequence.generated + stepped)
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Frees the slot. Neither an entry of `ends` nor the current step finds the sequence again.
    fn forget(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot as usize];
        sequence.serial = 0;
        self.by_request.remove(&sequence.job.request.0);
        self.spare.push(slot);
    }
}

#[cfg(test)]
mod tests;
