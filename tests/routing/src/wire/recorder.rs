use std::{cell::RefCell, rc::Rc};

use super::{Decision, End, FirstByte, Input, Members, Pick, Prompt, SignalsOf};
use crate::router::{EndpointId, Member, Outcome, Request, RequestId, Router, Signals, Time};

/// The lines of a recorded router.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub input: Vec<Input>,
    pub picks: Vec<Decision>,
}

/// A router that records what another one is given and what it picks.
pub struct Recorder<R> {
    router: R,
    recording: Rc<RefCell<Recording>>,
}

impl<R: Router> Recorder<R> {
    pub fn new(router: R, recording: Rc<RefCell<Recording>>) -> Self {
        Self { router, recording }
    }

    fn input(&self, event: Input) {
        self.recording.borrow_mut().input.push(event);
    }
}

impl<R: Router> Router for Recorder<R> {
    fn set_members(&mut self, now: Time, members: &[Member]) {
        self.input(Input::Members(Members { at_ns: now, members: members.to_vec() }));
        self.router.set_members(now, members);
    }

    fn observe(&mut self, now: Time, endpoint: EndpointId, signals: &Signals) {
        self.input(Input::Signals(SignalsOf { at_ns: now, endpoint, signals: *signals }));
        self.router.observe(now, endpoint, signals);
    }

    fn pick(&mut self, now: Time, request: &Request) -> EndpointId {
        self.input(Input::Request(Prompt::new(now, request)));
        let endpoint = self.router.pick(now, request);
        let pick = Pick { at_ns: now, id: request.id, endpoint, scores: self.router.scores() };
        self.recording.borrow_mut().picks.push(Decision::Pick(pick));
        endpoint
    }

    fn first_byte(&mut self, now: Time, request: RequestId) {
        self.input(Input::FirstByte(FirstByte { at_ns: now, id: request }));
        self.router.first_byte(now, request);
    }

    fn end(&mut self, now: Time, request: RequestId, outcome: Outcome) {
        self.input(Input::End(End { at_ns: now, id: request, outcome }));
        self.router.end(now, request, outcome);
    }

    fn scores(&self) -> Option<Vec<(EndpointId, f64)>> {
        self.router.scores()
    }
}
