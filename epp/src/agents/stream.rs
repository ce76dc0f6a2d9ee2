//! The state of one agent, and the pools that read it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Instant,
};

use forebay_telemetry::{
    Replica,
    client::Received,
    v1::{Delta, Endpoint, Frame, Snapshot, frame::Body},
};

use super::{
    routes::{Pool, ReaderId, Routes},
    view::AgentView,
};
use crate::endpoints::address_of;

/// The state of one agent. Its lock orders frames and changes of the readers.
#[derive(Debug)]
pub(super) struct AgentStream {
    address: SocketAddr,
    replica: Replica,
    epoch: u64,
    /// When the newest frame was sent (boot time of the node), and when it arrived.
    newest: Option<(u64, Instant)>,
    connected: bool,
    /// The loss of the stream was reported since the newest frame.
    reported_down: bool,
    /// The agent is gone. Frames that are still on their way are ignored.
    closed: bool,
    /// Endpoints that the agent reports.
    reported: HashSet<SocketAddr>,
    /// The pools that have one of them.
    readers: Vec<Pool>,
}

impl AgentStream {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            replica: Replica::default(),
            epoch: 0,
            newest: None,
            connected: false,
            reported_down: false,
            closed: false,
            reported: HashSet::new(),
            readers: Vec::new(),
        }
    }

    /// Hands a frame to the readers, and the state to pools that became readers with it.
    pub(super) fn apply(&mut self, received: &Received, routes: &Routes) {
        if self.closed {
            return;
        }
        (self.connected, self.reported_down) = (true, false);
        self.newest = Some((received.frame.sent_boottime_ns, received.at));
        self.epoch = received.frame.epoch;
        self.replica.apply(received);
        for reader in &self.readers {
            reader.endpoints.apply(self.address, received);
        }
        if self.changes_endpoints(&received.frame) {
            self.reported = self.replica.endpoints().filter_map(address).collect();
            self.follow_routes(routes);
        }
    }

    fn changes_endpoints(&self, frame: &Frame) -> bool {
        match &frame.body {
            Some(Body::Snapshot(_)) => true,
            Some(Body::Delta(delta)) => {
                let is_new = |it: &Endpoint| address(it).is_some_and(|it| !self.reported.contains(&it));
                !delta.removed_endpoints.is_empty() || delta.endpoints.iter().any(is_new)
            }
            _ => false,
        }
    }

    /// The readers are the pools that have an endpoint that the agent reports.
    fn follow_routes(&mut self, routes: &Routes) {
        let pools = self.reported.iter().flat_map(|address| routes.pools_of(*address));
        let mut wanted: HashMap<ReaderId, &Pool> = pools.map(|pool| (pool.id, pool)).collect();
        self.readers.retain(|reader| {
            let stays = wanted.remove(&reader.id).is_some();
            if !stays {
                reader.endpoints.remove_agent(self.address);
            }
            stays
        });
        for pool in wanted.into_values() {
            self.introduce(pool, routes);
            self.readers.push(pool.clone());
        }
    }

    /// The members of a pool have changed. `added`: endpoints of other pods than before.
    pub(super) fn members_changed(&mut self, pool: &Pool, added: &[SocketAddr], routes: &Routes) {
        let is_reader = self.readers.iter().any(|reader| reader.id == pool.id);
        let added: Vec<SocketAddr> =
            added.iter().copied().filter(|address| self.reported.contains(address)).collect();
        if !is_reader && !added.is_empty() {
            self.introduce(pool, routes);
            self.readers.push(pool.clone());
            return;
        }
        if is_reader && !added.is_empty() {
            let is_added = |endpoint: &Endpoint| address(endpoint).is_some_and(|it| added.contains(&it));
            let endpoints = self.endpoints_of(pool, routes).filter(is_added).collect();
            self.send(pool, Body::Delta(Delta { endpoints, ..Delta::default() }));
        }
        let has_none =
            |id| !self.reported.iter().any(|it| routes.pools_of(*it).iter().any(|pool| pool.id == id));
        if is_reader && has_none(pool.id) {
            self.forget(pool.id);
        }
    }

    /// Ends the reports to a pool.
    pub(super) fn forget(&mut self, id: ReaderId) {
        if let Some(at) = self.readers.iter().position(|reader| reader.id == id) {
            self.readers.swap_remove(at).endpoints.remove_agent(self.address);
        }
    }

    /// Sends the current state to a pool.
    fn introduce(&self, pool: &Pool, routes: &Routes) {
        let endpoints = self.endpoints_of(pool, routes).collect();
        let gpus = self.replica.gpus().into_iter().cloned().collect();
        self.send(pool, Body::Snapshot(Snapshot { endpoints, gpus, ..Snapshot::default() }));
    }

    /// Reports on the members of a pool.
    fn endpoints_of(&self, pool: &Pool, routes: &Routes) -> impl Iterator<Item = Endpoint> {
        let is_member = |endpoint: &&Endpoint| {
            let uid = endpoint.key.as_ref().map_or("", |key| key.uid.as_str());
            address(endpoint).is_some_and(|address| routes.has(pool.id, address, uid))
        };
        self.replica.endpoints().filter(is_member).cloned()
    }

    fn send(&self, pool: &Pool, body: Body) {
        let Some((sent_boottime_ns, at)) = self.newest else { return };
        let frame = Frame { epoch: self.epoch, sent_boottime_ns, body: Some(body), ..Frame::default() };
        pool.endpoints.apply(self.address, &Received { frame, at });
    }

    /// The stream ended. Its reports are used until they are stale. Returns whether this is the first call since the last
    /// frame.
    pub(super) fn down(&mut self) -> bool {
        self.connected = false;
        !std::mem::replace(&mut self.reported_down, true)
    }

    /// The agent no longer exists. Reports already applied to endpoints are used until they are stale.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for reader in self.readers.drain(..) {
            reader.endpoints.remove_agent(self.address);
        }
    }

    pub(super) fn view(&self, now: Instant) -> AgentView {
        AgentView {
            address: self.address,
            node: self.replica.node().name.clone(),
            connected: self.connected,
            frame_age: self.newest.map(|(_, at)| now.saturating_duration_since(at)),
            pools: self.readers.len(),
        }
    }

    /// Whether a pool reads this agent.
    pub(super) fn is_read_by(&self, id: ReaderId) -> bool {
        self.readers.iter().any(|reader| reader.id == id)
    }
}

fn address(endpoint: &Endpoint) -> Option<SocketAddr> {
    endpoint.key.as_ref().and_then(address_of)
}
