//! Simple routers to check the simulator with.

use std::collections::{HashMap, HashSet};

use forebay_routing_sim::{EndpointId, Member, Outcome, Request, RequestId, Router, Signals, Time};

#[derive(Default)]
pub struct RoundRobin {
    members: Vec<EndpointId>,
    next: usize,
}

impl Router for RoundRobin {
    fn set_members(&mut self, _: Time, members: &[Member]) {
        self.members = members.iter().map(|member| member.endpoint).collect();
    }

    fn observe(&mut self, _: Time, _: EndpointId, _: &Signals) {}

    fn pick(&mut self, _: Time, _: &Request) -> EndpointId {
        self.next += 1;
        self.members[self.next % self.members.len()]
    }

    fn first_byte(&mut self, _: Time, _: RequestId) {}

    fn end(&mut self, _: Time, _: RequestId, _: Outcome) {}
}

/// Fewest own requests in flight, or with `affinity` the lowest product of new prompt units and requests in flight.
#[derive(Default)]
pub struct LeastInFlight {
    pub affinity: bool,
    members: Vec<EndpointId>,
    in_flight: HashMap<EndpointId, usize>,
    placed: HashMap<RequestId, EndpointId>,
    sent: HashSet<(EndpointId, u64)>,
}

impl LeastInFlight {
    pub fn with_affinity() -> Self {
        Self { affinity: true, ..Self::default() }
    }

    fn cost(&self, endpoint: EndpointId, request: &Request) -> (usize, u32) {
        let in_flight = self.in_flight.get(&endpoint).copied().unwrap_or_default();
        if !self.affinity {
            return (in_flight, endpoint.0);
        }
        let known = request.prompt.iter().take_while(|hash| self.sent.contains(&(endpoint, hash.0)));
        let new = request.prompt.len() - known.count();
        // The product of new work and batch size, as LMetric has it.
        ((new + 1) * (in_flight + 1), endpoint.0)
    }
}

impl Router for LeastInFlight {
    fn set_members(&mut self, _: Time, members: &[Member]) {
        self.members = members.iter().map(|member| member.endpoint).collect();
    }

    fn observe(&mut self, _: Time, _: EndpointId, _: &Signals) {}

    fn pick(&mut self, _: Time, request: &Request) -> EndpointId {
        let members = self.members.iter().copied();
        let endpoint = members.min_by_key(|&it| self.cost(it, request)).expect("a member");
        *self.in_flight.entry(endpoint).or_default() += 1;
        self.placed.insert(request.id, endpoint);
        if self.affinity {
            self.sent.extend(request.prompt.iter().map(|hash| (endpoint, hash.0)));
        }
        endpoint
    }

    fn first_byte(&mut self, _: Time, _: RequestId) {}

    fn end(&mut self, _: Time, request: RequestId, _: Outcome) {
        let endpoint = self.placed.remove(&request).expect("ended twice, or never picked");
        *self.in_flight.entry(endpoint).or_default() -= 1;
    }
}
