//! The requests of a run: which are open, which pod and replica have them, and their records.

use std::time::Duration;

use super::{RequestRecord, replicas::ReplicaId};
use crate::{
    router::{Outcome, Time},
    trace::{Start, Trace},
};

#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) pod: usize,
    /// `None`: a foreign request.
    pub(super) replica: Option<ReplicaId>,
    pub(super) sent_at: Time,
    pub(super) first_byte_at: Option<Time>,
    pub(super) cached_tokens: u32,
}

pub(super) struct Requests<'a> {
    trace: &'a Trace,
    open: Vec<Option<Open>>,
    /// Entry that follows an entry in its session, and its pause.
    next: Vec<Option<(usize, Duration)>>,
    records: Vec<RequestRecord>,
}

impl<'a> Requests<'a> {
    pub(super) fn new(trace: &'a Trace) -> Self {
        let mut next = vec![None; trace.entries.len()];
        for (index, entry) in trace.entries.iter().enumerate() {
            if let Start::After { previous, pause } = entry.start {
                next[previous] = Some((index, pause));
            }
        }
        let records = Vec::with_capacity(trace.entries.len());
        Self { trace, open: vec![None; trace.entries.len()], next, records }
    }

    pub(super) fn open(&mut self, entry: usize, open: Open) {
        self.open[entry] = Some(open);
    }

    pub(super) fn get(&self, entry: usize) -> Option<&Open> {
        self.open[entry].as_ref()
    }

    pub(super) fn first_byte(&mut self, now: Time, entry: usize, cached_tokens: u32) -> Option<&Open> {
        let open = self.open[entry].as_mut()?;
        open.first_byte_at = Some(now);
        open.cached_tokens = cached_tokens;
        Some(open)
    }

    /// Ends an open request. Returns it, and when its session continues with which entry.
    pub(super) fn end(
        &mut self,
        now: Time,
        entry: usize,
        outcome: Outcome,
    ) -> Option<(Open, Option<(Time, usize)>)> {
        let open = self.open[entry].take()?;
        let planned = &self.trace.entries[entry];
        self.records.push(RequestRecord {
            entry,
            foreign: open.replica.is_none(),
            pod: open.pod,
            sent_at: open.sent_at,
            first_byte_at: open.first_byte_at,
            ended_at: now,
            outcome,
            prompt_tokens: planned.request.prompt_tokens,
            cached_tokens: open.cached_tokens,
            output_tokens: if outcome == Outcome::Completed { planned.output_tokens } else { 0 },
        });
        Some((open, self.next[entry].map(|(next, pause)| (now + pause, next))))
    }

    pub(super) fn all_ended(&self) -> bool {
        self.records.len() == self.trace.entries.len()
    }

    pub(super) fn into_records(self) -> Vec<RequestRecord> {
        self.records
    }
}
