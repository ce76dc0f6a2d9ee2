use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::channel::Channel;
use super::replica_health::ReplicaHealth;
use super::transport::Transport;
use crate::runtime::worker_index;

/// Minimum HTTP/2 connections per replica. Each worker has at least one of its own, so that neither the driver task nor
/// the stream limit of one connection limits throughput.
const CONNECTIONS_PER_REPLICA: usize = 2;

/// Address of a replica, and the namespace of its pools.
type Replica = (SocketAddr, Arc<str>);
type PeersByReplica = HashMap<Replica, Arc<Peer>>;

/// Replicas of the pickers of all pools, by address and namespace of the pool.
#[derive(Debug)]
pub(super) struct Peers {
    transport: Transport,
    workers: usize,
    by_address: ArcSwap<PeersByReplica>,
    /// Round-robin counter over replicas.
    turn: AtomicUsize,
}

/// One replica of a picker.
#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    /// Channel `i` belongs to worker `i % workers`.
    channels: Vec<Channel>,
    workers: usize,
    turn: AtomicUsize,
    /// In its last reply to headers the picker asked for no body.
    skips_body: AtomicBool,
    health: ReplicaHealth,
}

impl Peers {
    pub(super) fn new(transport: Transport, workers: usize) -> Self {
        Self { transport, workers, by_address: ArcSwap::default(), turn: AtomicUsize::new(0) }
    }

    /// Sets the replicas. Connections to other replicas end with their last stream.
    pub(super) fn set(&self, addresses: &HashSet<Replica>) {
        let known = self.by_address.load();
        let next = addresses
            .iter()
            .map(|replica| {
                let peer = known.get(replica).cloned();
                (replica.clone(), peer.unwrap_or_else(|| self.peer(replica)))
            })
            .collect();
        self.by_address.store(Arc::new(next));
    }

    /// All replicas, each time starting with the next one.
    pub(super) fn round_robin<'a>(
        &self,
        replicas: &'a [SocketAddr],
    ) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % replicas.len().max(1);
        replicas[first..].iter().chain(&replicas[..first]).copied()
    }

    /// The replica at `address`. A request that uses an older routing table may ask for a replica that was removed; it
    /// gets a new peer.
    pub(super) fn get(&self, address: SocketAddr, namespace: &Arc<str>) -> Arc<Peer> {
        let replica = (address, namespace.clone());
        let known = self.by_address.load().get(&replica).cloned();
        known.unwrap_or_else(|| self.peer(&replica))
    }

    /// The number of replicas that replied to their last request.
    pub(super) fn count_responsive(&self, replicas: &[SocketAddr], namespace: &Arc<str>) -> usize {
        replicas.iter().filter(|address| self.get(**address, namespace).health().is_responsive()).count()
    }

    fn peer(&self, (address, namespace): &Replica) -> Arc<Peer> {
        Arc::new(Peer::new(*address, namespace, &self.transport, self.workers))
    }
}

impl Peer {
    fn new(address: SocketAddr, namespace: &Arc<str>, transport: &Transport, workers: usize) -> Self {
        let count = CONNECTIONS_PER_REPLICA.next_multiple_of(workers.max(1));
        let channels =
            (0..count).map(|_| Channel::new(address, namespace.clone(), transport.clone())).collect();
        Self {
            address,
            channels,
            workers,
            turn: AtomicUsize::new(0),
            skips_body: AtomicBool::new(false),
            health: ReplicaHealth::new(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn health(&self) -> &ReplicaHealth {
        &self.health
    }

    /// Whether the picker probably needs no body for the next request.
    pub(super) fn skips_body(&self) -> bool {
        self.skips_body.load(Ordering::Relaxed)
    }

    pub(super) fn set_skips_body(&self, skips_body: bool) {
        self.skips_body.store(skips_body, Ordering::Relaxed);
    }

    /// A channel of this thread's worker.
    pub(super) fn channel(&self) -> &Channel {
        let per_worker = self.channels.len() / self.workers.max(1);
        let turn = if per_worker > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % per_worker } else { 0 };
        let at = worker_index() % self.workers.max(1) + turn * self.workers;
        &self.channels[at]
    }
}
