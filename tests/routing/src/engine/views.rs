//! What an agent sees of an engine: the kernel's counts at its sockets, and its `/metrics`.

use std::collections::VecDeque;

use super::{Engine, Job};
use crate::router::{EngineView, KernelView, RequestId, Time};

/// The kernel's counts of one pod.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    counts: KernelView,
    /// Requests in order of arrival. Ended ones are removed when they are the oldest.
    arrivals: VecDeque<(RequestId, Time)>,
}

impl Sockets {
    pub(super) fn started(&mut self, now: Time, job: &Job) {
        let counts = &mut self.counts;
        counts.started += 1;
        counts.in_flight += 1;
        counts.waiting_first_byte += 1;
        counts.waiting_request_bytes += u64::from(job.bytes);
        counts.request_bytes += u64::from(job.bytes);
        self.arrivals.push_back((job.request, now));
    }

    pub(super) fn first_byte(&mut self, now: Time, arrived_at: Time, bytes: u32) {
        let counts = &mut self.counts;
        counts.waiting_first_byte -= 1;
        counts.waiting_request_bytes -= u64::from(bytes);
        counts.ttft.add(1, (now - arrived_at).as_nanos() as u64);
        counts.last_response_byte_at = Some(now);
    }

    pub(super) fn tokens(&mut self, now: Time, tokens: u64, interval_ns: u64) {
        if tokens > 0 {
            self.counts.itl.add(tokens, interval_ns);
            self.counts.last_response_byte_at = Some(now);
        }
    }

    /// A response byte after a pause that is not an inter-token latency.
    pub(super) fn byte(&mut self, now: Time) {
        self.counts.last_response_byte_at = Some(now);
    }

    pub(super) fn finished(&mut self, now: Time) {
        self.counts.in_flight -= 1;
        self.counts.finished += 1;
        self.counts.last_response_byte_at = Some(now);
    }

    /// A complete response that is an error. It has no time to first token.
    pub(super) fn rejected(&mut self, now: Time, bytes: u32) {
        self.counts.waiting_first_byte -= 1;
        self.counts.waiting_request_bytes -= u64::from(bytes);
        self.finished(now);
    }

    pub(super) fn aborted(&mut self, waiting: bool, bytes: u32) {
        self.counts.in_flight -= 1;
        self.counts.aborted += 1;
        if waiting {
            self.counts.waiting_first_byte -= 1;
            self.counts.waiting_request_bytes -= u64::from(bytes);
        }
    }
}

impl Engine {
    /// The kernel's view at this moment, all clients included.
    pub fn kernel_view(&mut self, now: Time) -> KernelView {
        while let Some((oldest, _)) = self.sockets.arrivals.front()
            && !self.by_request.contains_key(&oldest.0)
        {
            self.sockets.arrivals.pop_front();
        }
        let oldest_started_at = self.sockets.arrivals.front().map(|&(_, at)| at);
        KernelView { measured_at: now, oldest_started_at, ..self.sockets.counts }
    }

    /// A scrape of `/metrics`: the values of the last finished step.
    pub fn scrape(&self, now: Time) -> EngineView {
        EngineView { measured_at: now, ..self.published }
    }

    pub fn preemptions(&self) -> u64 {
        self.counters.preemptions
    }

    pub(super) fn publish(&mut self) {
        self.published = EngineView {
            running: (self.prefilling.len() + self.decoding.len()) as u32,
            waiting: self.waiting.len() as u32,
            kv_cache_usage: self.cache.usage(),
            ..self.counters
        };
    }
}
