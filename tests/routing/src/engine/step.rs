//! The end of a step: tokens are sent, sequences end, prompts become decoding sequences.

use std::{cmp::Reverse, sync::Arc};

use super::{
    Engine, Event,
    sequence::{Slot, State, block_phase},
};
use crate::router::{Time, UNIT_TOKENS};

#[derive(Debug)]
pub(super) struct Step {
    pub(super) began_at: Time,
    pub(super) ends_at: Time,
    pub(super) prefill_tokens: u32,
    decoding: u32,
    /// Sequences with a part of their prompt in this step, by slot and serial.
    prefills: Vec<(Slot, u64)>,
}

impl Step {
    pub(super) fn new(began_at: Time, decoding: u32) -> Self {
        Self { began_at, ends_at: began_at, prefill_tokens: 0, decoding, prefills: Vec::new() }
    }

    pub(super) fn add(&mut self, slot: Slot, serial: u64, tokens: u32) {
        self.prefill_tokens += tokens;
        self.prefills.push((slot, serial));
    }
}

impl Engine {
    pub(super) fn finish_step(&mut self, now: Time, step: &Step, events: &mut Vec<Event>) {
        // Sequences may have been aborted since.
        let tokens = step.decoding.min(self.decoding.len() as u32);
        self.counters.generation_tokens += u64::from(tokens);
        self.sockets.tokens(now, u64::from(tokens), (now - step.began_at).as_nanos() as u64);
        while let Some(&Reverse((end, serial, slot))) = self.ends.peek()
            && end <= self.decode_steps
        {
            self.ends.pop();
            if self.sequences[slot as usize].serial == serial {
                self.complete(now, slot, events);
            }
        }
        for &(slot, serial) in &step.prefills {
            let sequence = &self.sequences[slot as usize];
            if sequence.serial == serial && sequence.computed == sequence.target {
                self.finish_prefill(now, slot, events);
            }
        }
        self.counters.steps += 1;
        self.publish();
    }

    /// The step computed the last token of the prompt, and so generated one token.
    fn finish_prefill(&mut self, now: Time, slot: Slot, events: &mut Vec<Event>) {
        self.prefilling.retain(|&other| other != slot);
        let position = self.decoding.len();
        let sequence = &mut self.sequences[slot as usize];
        sequence.generated += 1;
        sequence.state = State::Decoding { position, joined_at: self.decode_steps };
        self.decoding.push(slot);
        self.block_phases[block_phase(self.decode_steps, sequence.target, self.spec.block_size)] += 1;
        self.kv_tokens += u64::from(sequence.target);
        let remaining = sequence.job.output_tokens.saturating_sub(sequence.generated);
        self.ends.push(Reverse((self.decode_steps + u64::from(remaining), sequence.serial, slot)));
        self.counters.generation_tokens += 1;
        if sequence.first_byte_at.is_none() {
            sequence.first_byte_at = Some(now);
            self.counters.prompt_tokens += u64::from(sequence.job.prompt_tokens);
            self.sockets.first_byte(now, sequence.arrived_at, sequence.job.bytes);
            let request = sequence.job.request;
            events.push(Event::FirstByte { request, cached_tokens: sequence.cached_tokens });
        } else {
            self.sockets.byte(now);
        }
        if remaining == 0 {
            self.complete(now, slot, events);
        }
    }

    fn complete(&mut self, now: Time, slot: Slot, events: &mut Vec<Event>) {
        self.leave(slot);
        let sequence = &self.sequences[slot as usize];
        let request = sequence.job.request;
        let reply = Arc::clone(&sequence.job.reply);
        let blocks = UNIT_TOKENS.div_ceil(self.spec.block_size);
        let mut units = Vec::with_capacity(reply.len());
        for hash in reply.iter() {
            match self.cache.find(hash.0) {
                Some(unit) => {
                    self.cache.reference(unit);
                    units.push(unit);
                }
                None if blocks <= self.cache.available() => units.push(self.cache.insert(hash.0, blocks)),
                None => break,
            }
        }
        for unit in units.into_iter().rev() {
            self.cache.release(unit);
        }
        self.sockets.finished(now);
        self.forget(slot);
        events.push(Event::Completed { request });
    }
}
