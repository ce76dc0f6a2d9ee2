use std::sync::Arc;

use super::{Engine, cache::UnitRef};
use crate::router::{BlockHash, RequestId, Time, UNIT_TOKENS};

pub(super) type Slot = u32;

/// A request as the engine receives it.
#[derive(Clone, Debug)]
pub struct Job {
    pub request: RequestId,
    pub prompt: Arc<[BlockHash]>,
    pub prompt_tokens: u32,
    /// At least one.
    pub output_tokens: u32,
    /// Full units that the output completes. They are cached when the request ends, for the next turn of a conversation.
    pub reply: Arc<[BlockHash]>,
    /// Size of the request on the wire.
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Prefilling,
    Decoding { position: usize, joined_at: u64 },
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) job: Job,
    pub(super) arrived_at: Time,
    pub(super) state: State,
    /// Changes with every admission, so that later admissions have higher serials.
    pub(super) serial: u64,
    /// Tokens in the KV cache while prefilling.
    pub(super) computed: u32,
    /// Tokens to compute before the next token is generated: the prompt, and the output before a preemption.
    pub(super) target: u32,
    /// Tokens generated when it last began to decode.
    pub(super) generated: u32,
    pub(super) units: Vec<UnitRef>,
    /// Blocks after the prompt, while prefilling.
    pub(super) private_blocks: u32,
    pub(super) cached_tokens: u32,
    pub(super) first_byte_at: Option<Time>,
}

impl Sequence {
    pub(super) fn new(job: Job, arrived_at: Time, serial: u64) -> Self {
        Self {
            arrived_at,
            state: State::Waiting,
            serial,
            computed: 0,
            target: job.prompt_tokens,
            generated: 0,
            units: Vec::new(),
            private_blocks: 0,
            cached_tokens: 0,
            first_byte_at: None,
            job,
        }
    }

    /// Tokens of the prompt unit at `index`.
    pub(super) fn unit_tokens(&self, index: usize) -> u32 {
        (self.job.prompt_tokens - index as u32 * UNIT_TOKENS).min(UNIT_TOKENS)
    }

    pub(super) fn prompt_blocks(&self, block_size: u32) -> u32 {
        self.job.prompt_tokens.div_ceil(block_size)
    }
}

impl Engine {
    /// Removes a sequence from the queue or the batch and releases its blocks. Its prompt stays cached.
    pub(super) fn leave(&mut self, slot: Slot) {
        match self.sequences[slot as usize].state {
            State::Waiting => self.waiting.retain(|&other| other != slot),
            State::Prefilling => {
                self.prefilling.retain(|&other| other != slot);
                self.release_blocks(slot);
            }
            State::Decoding { position, joined_at } => {
                self.leave_decoding(slot, position, joined_at);
                self.release_blocks(slot);
            }
        }
    }

    /// Updates the counts of decoding sequences, and `private_blocks`, `generated`, and `target` of this one.
    fn leave_decoding(&mut self, slot: Slot, position: usize, joined_at: u64) {
        self.decoding.swap_remove(position);
        if let Some(&moved) = self.decoding.get(position)
            && let State::Decoding { position: old, .. } = &mut self.sequences[moved as usize].state
        {
            *old = position;
        }
        let block_size = self.spec.block_size;
        let sequence = &mut self.sequences[slot as usize];
        let steps = (self.decode_steps - joined_at) as u32;
        let stored = sequence.target + steps;
        self.block_phases[block_phase(joined_at, sequence.target, block_size)] -= 1;
        self.kv_tokens -= u64::from(stored);
        sequence.private_blocks = stored.div_ceil(block_size) - sequence.prompt_blocks(block_size);
        sequence.generated += steps;
        sequence.target = sequence.job.prompt_tokens + sequence.generated;
    }

    /// Releases the last units first, so that the beginning of a prompt stays cached longest.
    fn release_blocks(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot as usize];
        self.cache.give(std::mem::take(&mut sequence.private_blocks));
        for unit in sequence.units.drain(..).rev() {
            self.cache.release(unit);
        }
    }
}

/// Remainder of the decode steps at which a sequence with `target` tokens at `joined_at` needs another block.
pub(super) fn block_phase(joined_at: u64, target: u32, block_size: u32) -> usize {
    let size = u64::from(block_size);
    ((joined_at + size - u64::from(target) % size) % size) as usize
}
