//! The scheduler: which sequences compute how many tokens in the next step.

use std::time::Duration;

use super::{
    Engine,
    sequence::{Slot, State},
    step::Step,
};
use crate::router::{Time, UNIT_TOKENS};

/// Whether a chunk got its blocks.
#[derive(PartialEq, Eq)]
enum Allocated {
    Yes,
    No,
}

impl Engine {
    /// Schedules the next step: decoding sequences, then prompts in the batch, then the queue in FIFO order. The queue
    /// waits if a sequence was preempted.
    pub(super) fn begin_step(&mut self, now: Time) {
        if self.waiting.is_empty() && self.prefilling.is_empty() && self.decoding.is_empty() {
            return;
        }
        let preemptions = self.counters.preemptions;
        self.grow_decoding();
        let decoding = self.decoding.len() as u32;
        let mut budget = self.spec.max_num_batched_tokens.saturating_sub(decoding);
        let mut step = Step::new(now, decoding);
        self.continue_prefills(&mut budget, &mut step);
        if self.counters.preemptions == preemptions {
            self.admit(&mut budget, &mut step);
        }
        let ns = self.spec.step_ns(step.prefill_tokens, decoding, self.kv_tokens) / self.speed;
        step.ends_at = now + Duration::from_nanos(ns as u64);
        self.step = Some(step);
    }

    /// Allocates the blocks that decoding sequences need for one more token each.
    fn grow_decoding(&mut self) {
        if self.decoding.is_empty() {
            return;
        }
        loop {
            let phase = (self.decode_steps % u64::from(self.spec.block_size)) as usize;
            let needed = self.block_phases[phase];
            if needed <= self.cache.available() {
                self.cache.take(needed);
                break;
            }
            self.preempt_latest();
        }
        self.decode_steps += u64::from(!self.decoding.is_empty());
        self.kv_tokens += self.decoding.len() as u64;
    }

    fn continue_prefills(&mut self, budget: &mut u32, step: &mut Step) {
        let mut index = 0;
        while let Some(&slot) = self.prefilling.get(index)
            && *budget > 0
        {
            let sequence = &self.sequences[slot as usize];
            let tokens = (sequence.target - sequence.computed).min(*budget);
            while self.allocate(slot, tokens) == Allocated::No {
                if self.preempt_latest() == Some(slot) {
                    return;
                }
            }
            // Victims that are scheduled in this step keep their share of its duration, as the model runner has it.
            step.add(slot, self.sequences[slot as usize].serial, tokens);
            self.sequences[slot as usize].computed += tokens;
            *budget -= tokens;
            index += 1;
        }
    }

    fn admit(&mut self, budget: &mut u32, step: &mut Step) {
        while *budget > 0
            && self.prefilling.len() + self.decoding.len() < self.spec.max_num_seqs as usize
            && let Some(&slot) = self.waiting.front()
        {
            let cached = self.find_cached(slot);
            let sequence = &mut self.sequences[slot as usize];
            sequence.computed = cached;
            let tokens = (sequence.target - cached).min(*budget);
            if self.allocate(slot, tokens) == Allocated::No {
                return;
            }
            self.waiting.pop_front();
            let serial = self.serial();
            let sequence = &mut self.sequences[slot as usize];
            sequence.serial = serial;
            sequence.state = State::Prefilling;
            sequence.computed += tokens;
            if sequence.generated == 0 {
                sequence.cached_tokens = cached;
            }
            self.counters.prefix_cache_queries += u64::from(sequence.target);
            self.counters.prefix_cache_hits += u64::from(cached);
            self.prefilling.push(slot);
            step.add(slot, serial, tokens);
            *budget -= tokens;
        }
    }

    /// Tokens of leading units that are cached: whole blocks, and never the whole sequence, whose last token has to be
    /// computed to get the next one.
    fn find_cached(&self, slot: Slot) -> u32 {
        let sequence = &self.sequences[slot as usize];
        let block_size = self.spec.block_size;
        let mut tokens = 0;
        for (index, hash) in sequence.job.prompt.iter().enumerate() {
            if self.cache.find(hash.0).is_none() {
                break;
            }
            tokens += sequence.unit_tokens(index) / block_size * block_size;
        }
        tokens.min((sequence.target - 1) / block_size * block_size)
    }

    /// Allocates blocks for `tokens` after the computed ones, and references the units that hold all of them.
    fn allocate(&mut self, slot: Slot, tokens: u32) -> Allocated {
        let block_size = self.spec.block_size;
        let sequence = &mut self.sequences[slot as usize];
        let end = sequence.computed + tokens;
        let last_unit = (end.div_ceil(UNIT_TOKENS) as usize).min(sequence.job.prompt.len());
        let private = end.div_ceil(block_size).saturating_sub(sequence.prompt_blocks(block_size));
        let more_private = private - sequence.private_blocks;
        let mut needed = more_private;
        for index in sequence.units.len()..last_unit {
            needed += match self.cache.find(sequence.job.prompt[index].0) {
                Some(unit) if self.cache.is_evictable(unit) => self.cache.blocks(unit),
                Some(_) => 0,
                None => sequence.unit_tokens(index).div_ceil(block_size),
            };
        }
        if needed > self.cache.available() {
            return Allocated::No;
        }
        let first = sequence.units.len();
        // Existing units are referenced before new ones are inserted: an insertion may evict.
        let found: Vec<_> =
            sequence.job.prompt[first..last_unit].iter().map(|hash| self.cache.find(hash.0)).collect();
        for unit in found.iter().flatten() {
            self.cache.reference(*unit);
        }
        for (index, found) in (first..last_unit).zip(found) {
            let unit = found.unwrap_or_else(|| {
                let blocks = sequence.unit_tokens(index).div_ceil(block_size);
                self.cache.insert(sequence.job.prompt[index].0, blocks)
            });
            sequence.units.push(unit);
        }
        self.cache.take(more_private);
        sequence.private_blocks = private;
        Allocated::Yes
    }

    /// Puts the sequence that was admitted last back to the head of the queue. Its output is computed again.
    fn preempt_latest(&mut self) -> Option<Slot> {
        let running = self.prefilling.iter().chain(&self.decoding);
        let slot = running.copied().max_by_key(|&slot| self.sequences[slot as usize].serial)?;
        self.leave(slot);
        let serial = self.serial();
        let sequence = &mut self.sequences[slot as usize];
        sequence.state = State::Waiting;
        sequence.serial = serial;
        sequence.computed = 0;
        self.waiting.push_front(slot);
        self.counters.preemptions += 1;
        Some(slot)
    }
}
