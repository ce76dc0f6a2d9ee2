use std::{collections::VecDeque, sync::Arc};

use fastrand::Rng;

use super::{
    ChangeKind, Conditions, RunError, RunResult,
    agents::Agents,
    events::{Event, Events, Next, Ordered},
    replicas::Replicas,
    requests::{Open, Requests},
};
use crate::{
    engine::{Engine, Event as EngineEvent, Job},
    router::{EndpointId, Member, Outcome, Router, Signals, Time},
    trace::{Start, Trace},
};

struct Pod {
    engine: Engine,
    up: bool,
    incarnation: u32,
    freezes: u32,
    /// End of the step for which an event is queued.
    queued: Option<Time>,
}

pub(super) struct Simulation<'a> {
    trace: &'a Trace,
    conditions: &'a Conditions,
    pods: Vec<Pod>,
    replicas: Replicas<'a>,
    agents: Agents,
    requests: Requests<'a>,
    events: Events,
    /// Reports that have left their nodes.
    in_transit: VecDeque<Signals>,
    engine_events: Vec<EngineEvent>,
    rng: Rng,
    preemptions: u64,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(
        trace: &'a Trace,
        conditions: &'a Conditions,
        seed: u64,
        make_router: &'a mut dyn FnMut(usize) -> Box<dyn Router>,
    ) -> Self {
        let pod = |spec: &crate::EngineSpec| Pod {
            engine: Engine::new(spec.clone()),
            up: true,
            incarnation: 0,
            freezes: 0,
            queued: None,
        };
        let mut it = Self {
            trace,
            conditions,
            pods: conditions.pods.iter().map(pod).collect(),
            replicas: Replicas::new(conditions.replicas, make_router),
            agents: Agents::new(conditions),
            requests: Requests::new(trace),
            events: Events::default(),
            in_transit: VecDeque::new(),
            engine_events: Vec::new(),
            rng: Rng::with_seed(seed),
            preemptions: 0,
        };
        it.schedule_known_events();
        it
    }

    fn schedule_known_events(&mut self) {
        let conditions = self.conditions;
        for (index, change) in conditions.changes.iter().enumerate() {
            self.events.add(change.at, Event::Change(index));
        }
        if let Some(restart) = conditions.replica_restart {
            self.events.add(restart.at, Event::ReplicaRestart(restart.replica));
        }
        for pod in 0..self.pods.len() {
            self.events.append(Agents::first_report(conditions, pod), Ordered::Report(pod));
        }
        let starts = self.trace.entries.iter().enumerate().filter_map(|(index, entry)| match entry.start {
            Start::At(at) => Some((at, index)),
            Start::After { .. } => None,
        });
        let mut starts: Vec<_> = starts.collect();
        starts.sort_unstable();
        for (at, entry) in starts {
            self.events.append(at, Ordered::Arrival(entry));
        }
    }

    pub(super) fn run(mut self) -> Result<RunResult, RunError> {
        self.update_members(Time::ZERO);
        while !self.requests.all_ended()
            && let Some((now, next)) = self.events.pop()
        {
            match next {
                Next::Event(event) => self.handle(now, event)?,
                Next::Ordered(event) => self.handle_ordered(now, event)?,
            }
        }
        for pod in &self.pods {
            self.preemptions += pod.engine.preemptions();
        }
        let records = self.requests.into_records();
        Ok(RunResult { pods: self.pods.len(), records, preemptions: self.preemptions })
    }

    fn handle(&mut self, now: Time, event: Event) -> Result<(), RunError> {
        match event {
            Event::NextTurn(entry) => self.arrive(now, entry)?,
            Event::StepEnd(pod) => self.step(now, pod),
            Event::Change(index) => self.change(now, index),
            Event::PodBack(pod) => {
                self.pods[pod].up = true;
                self.update_members(now);
            }
            Event::ReplicaRestart(replica) => self.replicas.restart(now, replica),
            Event::StalledStreams(pod, freezes) => {
                if self.pods[pod].freezes == freezes {
                    for request in self.pods[pod].engine.begun() {
                        self.time_out(now, request.0 as usize);
                    }
                }
            }
        }
        Ok(())
    }

    fn handle_ordered(&mut self, now: Time, event: Ordered) -> Result<(), RunError> {
        match event {
            Ordered::Arrival(entry) => self.arrive(now, entry)?,
            Ordered::Dispatch(entry) => self.dispatch(now, entry),
            Ordered::FirstByteTimeout(entry) => {
                if self.requests.get(entry).is_some_and(|open| open.first_byte_at.is_none()) {
                    self.time_out(now, entry);
                }
            }
            Ordered::Report(pod) => {
                let state = &mut self.pods[pod];
                if state.up
                    && let Some(signals) = self.agents.report(now, pod, &mut state.engine, self.conditions)
                {
                    self.events.append(now + self.conditions.network_delay, Ordered::Delivery(pod));
                    self.in_transit.push_back(signals);
                }
                self.events.append(now + self.conditions.report_interval, Ordered::Report(pod));
            }
            Ordered::Delivery(pod) => {
                if let Some(signals) = self.in_transit.pop_front() {
                    self.replicas.observe(now, pod, &signals);
                }
            }
        }
        Ok(())
    }

    fn arrive(&mut self, now: Time, entry: usize) -> Result<(), RunError> {
        let foreign = self.rng.f64() < self.conditions.foreign_share;
        let (pod, replica) = if foreign {
            (self.rng.usize(..self.pods.len()), None)
        } else {
            let (pod, replica) = self.replicas.pick(now, &self.trace.entries[entry].request)?;
            (pod, Some(replica))
        };
        let open = Open { pod, replica, sent_at: now, first_byte_at: None, cached_tokens: 0 };
        self.requests.open(entry, open);
        self.events.append(now + self.conditions.network_delay, Ordered::Dispatch(entry));
        self.events.append(now + self.conditions.client_timeout, Ordered::FirstByteTimeout(entry));
        Ok(())
    }

    fn dispatch(&mut self, now: Time, entry: usize) {
        let Some(&Open { pod, .. }) = self.requests.get(entry) else { return };
        let planned = &self.trace.entries[entry];
        let job = Job {
            request: planned.request.id,
            prompt: Arc::clone(&planned.request.prompt),
            prompt_tokens: planned.request.prompt_tokens,
            output_tokens: planned.output_tokens,
            reply: Arc::clone(&planned.reply),
            bytes: planned.request.prompt_bytes,
        };
        let state = &mut self.pods[pod];
        if state.up && state.engine.submit(now, job).is_ok() {
            self.queue_step(pod);
        } else {
            self.end(now, entry, Outcome::Failed);
        }
    }

    fn step(&mut self, now: Time, pod: usize) {
        if self.pods[pod].queued != Some(now) {
            return;
        }
        self.pods[pod].queued = None;
        let mut events = std::mem::take(&mut self.engine_events);
        if self.pods[pod].engine.step_ends_at() == Some(now) {
            self.pods[pod].engine.advance(now, &mut events);
        }
        self.queue_step(pod);
        for event in events.drain(..) {
            match event {
                EngineEvent::FirstByte { request, cached_tokens } => {
                    let open = self.requests.first_byte(now, request.0 as usize, cached_tokens);
                    if let Some(replica) = open.and_then(|open| open.replica) {
                        self.replicas.first_byte(now, replica, request);
                    }
                }
                EngineEvent::Completed { request } => self.end(now, request.0 as usize, Outcome::Completed),
            }
        }
        self.engine_events = events;
    }

    fn queue_step(&mut self, pod: usize) {
        let state = &mut self.pods[pod];
        let ends_at = state.engine.step_ends_at();
        if let Some(at) = ends_at
            && state.queued != ends_at
        {
            state.queued = ends_at;
            self.events.add(at, Event::StepEnd(pod));
        }
    }

    fn change(&mut self, now: Time, index: usize) {
        let change = self.conditions.changes[index];
        let pod = change.pod;
        match change.kind {
            ChangeKind::Speed(speed) => self.pods[pod].engine.set_speed(speed),
            ChangeKind::Freeze => {
                self.pods[pod].engine.freeze();
                let stalled = Event::StalledStreams(pod, self.pods[pod].freezes);
                self.events.add(now + self.conditions.client_timeout, stalled);
            }
            ChangeKind::Thaw => {
                self.pods[pod].freezes += 1;
                self.pods[pod].engine.thaw(now);
            }
            ChangeKind::Restart { down } => {
                let state = &mut self.pods[pod];
                state.up = false;
                state.incarnation += 1;
                state.freezes += 1;
                self.preemptions += state.engine.preemptions();
                let lost = state.engine.restart();
                self.agents.forget(pod);
                for request in lost {
                    self.end(now, request.0 as usize, Outcome::Failed);
                }
                self.update_members(now);
                self.events.add(now + down, Event::PodBack(pod));
            }
        }
        self.queue_step(pod);
    }

    fn time_out(&mut self, now: Time, entry: usize) {
        if let Some(open) = self.requests.get(entry) {
            let pod = open.pod;
            self.pods[pod].engine.abort(self.trace.entries[entry].request.id);
            self.end(now, entry, Outcome::TimedOut);
        }
    }

    fn end(&mut self, now: Time, entry: usize, outcome: Outcome) {
        let Some((open, next)) = self.requests.end(now, entry, outcome) else { return };
        if let Some(replica) = open.replica {
            self.replicas.end(now, replica, self.trace.entries[entry].request.id, outcome);
        }
        if let Some((at, next)) = next {
            self.events.add(at, Event::NextTurn(next));
        }
    }

    fn update_members(&mut self, now: Time) {
        let up = self.pods.iter().enumerate().filter(|(_, pod)| pod.up);
        let members = up
            .map(|(index, pod)| Member { endpoint: EndpointId(index as u32), incarnation: pod.incarnation });
        self.replicas.set_members(now, members.collect());
    }
}
