//! The queue of events. Events of equal time keep the order in which they were added.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
};

use crate::router::Time;

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// The client of a session sends its next request.
    NextTurn(usize),
    /// The engine of a pod may have finished a step. Stale if its step ends at another time.
    StepEnd(usize),
    /// Index in the conditions' changes.
    Change(usize),
    PodBack(usize),
    ReplicaRestart(usize),
    /// Clients of a frozen pod lose patience with responses that have begun. With the pod's freeze count.
    StalledStreams(usize, u32),
}

/// What is known in order of time, mostly because it happens after a constant delay.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ordered {
    /// A client sends the request of this entry.
    Arrival(usize),
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
    Ordered(Ordered),
}

/// A binary heap, and one FIFO queue per kind of ordered events, which is cheaper than the heap.
#[derive(Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Timed>>,
    arrivals: VecDeque<(Time, Ordered)>,
    dispatches: VecDeque<(Time, Ordered)>,
    deliveries: VecDeque<(Time, Ordered)>,
    timeouts: VecDeque<(Time, Ordered)>,
    reports: VecDeque<(Time, Ordered)>,
    serial: u64,
}

impl Events {
    pub(super) fn add(&mut self, at: Time, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse(Timed { at, serial: self.serial, event }));
    }

    /// Adds at the end of the queue of this kind. Times of one kind never decrease.
    pub(super) fn append(&mut self, at: Time, ordered: Ordered) {
        let queue = match ordered {
            Ordered::Arrival(_) => &mut self.arrivals,
            Ordered::Dispatch(_) => &mut self.dispatches,
            Ordered::Delivery(_) => &mut self.deliveries,
            Ordered::FirstByteTimeout(_) => &mut self.timeouts,
            Ordered::Report(_) => &mut self.reports,
        };
        debug_assert!(queue.back().is_none_or(|(last, _)| *last <= at));
        queue.push_back((at, ordered));
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Next)> {
        let queues = [
            &mut self.deliveries,
            &mut self.dispatches,
            &mut self.arrivals,
            &mut self.timeouts,
            &mut self.reports,
        ];
        let queue = queues.into_iter().filter(|queue| !queue.is_empty()).min_by_key(|queue| queue[0].0);
        let heap_at = self.heap.peek().map(|Reverse(timed)| timed.at);
        match queue {
            Some(queue) if heap_at.is_none_or(|at| queue[0].0 < at) => {
                queue.pop_front().map(|(at, ordered)| (at, Next::Ordered(ordered)))
            }
            _ => self.heap.pop().map(|Reverse(timed)| (timed.at, Next::Event(timed.event))),
        }
    }
}
