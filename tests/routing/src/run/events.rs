//! The queue of events. Events of equal time keep the order in which they were added.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
};

use crate::router::Time;

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A client sends the request of this entry.
    Arrival(usize),
    /// The engine of a pod may have finished a step. Stale if its step ends at another time.
    StepEnd(usize),
    /// Index in the conditions' changes.
    Change(usize),
    PodBack(usize),
    ReplicaRestart(usize),
    /// Clients of a frozen pod lose patience with responses that have begun. With the pod's freeze count.
    StalledStreams(usize, u32),
}

/// What happens after a constant delay, so that it is queued in order of time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Delayed {
    /// A request reaches its pod.
    Dispatch(usize),
    FirstByteTimeout(usize),
    /// The agent of a pod sends its report.
    Report(usize),
    /// The oldest report in transit, of this pod, reaches the replicas.
    Delivery(usize),
}

struct Timed {
    at: Time,
    serial: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

pub(super) enum Next {
    Event(Event),
    Delayed(Delayed),
}

/// A binary heap, and one FIFO queue per constant delay, which is cheaper than the heap.
#[derive(Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Timed>>,
    dispatches: VecDeque<(Time, Delayed)>,
    deliveries: VecDeque<(Time, Delayed)>,
    timeouts: VecDeque<(Time, Delayed)>,
    reports: VecDeque<(Time, Delayed)>,
    serial: u64,
}

impl Events {
    pub(super) fn add(&mut self, at: Time, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse(Timed { at, serial: self.serial, event }));
    }

    /// Adds at the end of the queue of this kind. Times of one kind never decrease.
    pub(super) fn delay(&mut self, at: Time, delayed: Delayed) {
        let queue = match delayed {
            Delayed::Dispatch(_) => &mut self.dispatches,
            Delayed::Delivery(_) => &mut self.deliveries,
            Delayed::FirstByteTimeout(_) => &mut self.timeouts,
            Delayed::Report(_) => &mut self.reports,
        };
        debug_assert!(queue.back().is_none_or(|(last, _)| *last <= at));
        queue.push_back((at, delayed));
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Next)> {
        let queues = [&mut self.deliveries, &mut self.dispatches, &mut self.timeouts, &mut self.reports];
        let queue = queues.into_iter().filter(|queue| !queue.is_empty()).min_by_key(|queue| queue[0].0);
        let heap_at = self.heap.peek().map(|Reverse(timed)| timed.at);
        match queue {
            Some(queue) if heap_at.is_none_or(|at| queue[0].0 < at) => {
                queue.pop_front().map(|(at, delayed)| (at, Next::Delayed(delayed)))
            }
            _ => self.heap.pop().map(|Reverse(timed)| (timed.at, Next::Event(timed.event))),
        }
    }
}
