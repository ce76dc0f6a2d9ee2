//! The replicas of the router.

use super::RunError;
use crate::router::{EndpointId, Member, Outcome, Request, RequestId, Router, Signals, Time};

/// A replica in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplicaId {
    index: usize,
    life: u32,
}

struct Replica {
    router: Box<dyn Router>,
    life: u32,
}

pub(super) struct Replicas<'a> {
    make: &'a mut dyn FnMut(usize) -> Box<dyn Router>,
    replicas: Vec<Replica>,
    members: Vec<Member>,
    next: usize,
}

impl<'a> Replicas<'a> {
    pub(super) fn new(count: usize, make: &'a mut dyn FnMut(usize) -> Box<dyn Router>) -> Self {
        let replicas = (0..count).map(|index| Replica { router: make(index), life: 0 }).collect();
        Self { make, replicas, members: Vec::new(), next: 0 }
    }

    pub(super) fn set_members(&mut self, now: Time, members: Vec<Member>) {
        for replica in &mut self.replicas {
            replica.router.set_members(now, &members);
        }
        self.members = members;
    }

    pub(super) fn observe(&mut self, now: Time, pod: usize, signals: &Signals) {
        for replica in &mut self.replicas {
            replica.router.observe(now, EndpointId(pod as u32), signals);
        }
    }

    /// Asks the next replica. Returns the pod.
    pub(super) fn pick(&mut self, now: Time, request: &Request) -> Result<(usize, ReplicaId), RunError> {
        let index = self.next;
        self.next = (index + 1) % self.replicas.len();
        let replica = &mut self.replicas[index];
        let endpoint = replica.router.pick(now, request);
        if !self.members.iter().any(|member| member.endpoint == endpoint) {
            return Err(RunError::NotAMember { request: request.id, endpoint });
        }
        Ok((endpoint.0 as usize, ReplicaId { index, life: replica.life }))
    }

    pub(super) fn first_byte(&mut self, now: Time, id: ReplicaId, request: RequestId) {
        if let Some(router) = self.living(id) {
            router.first_byte(now, request);
        }
    }

    pub(super) fn end(&mut self, now: Time, id: ReplicaId, request: RequestId, outcome: Outcome) {
        if let Some(router) = self.living(id) {
            router.end(now, request, outcome);
        }
    }

    pub(super) fn restart(&mut self, now: Time, index: usize) {
        let life = self.replicas[index].life + 1;
        let mut router = (self.make)(index);
        router.set_members(now, &self.members);
        self.replicas[index] = Replica { router, life };
    }

    fn living(&mut self, id: ReplicaId) -> Option<&mut dyn Router> {
        let replica = self.replicas.get_mut(id.index).filter(|replica| replica.life == id.life)?;
        Some(replica.router.as_mut())
    }
}
