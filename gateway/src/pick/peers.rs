use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::channel::Channel;
use super::transport::Transport;
use crate::workers;

/// Least HTTP/2 connections to one replica; each worker has one of its own. One connection's loop and its limit
/// of streams must not be a bound on a busy gateway.
const CONNECTIONS_PER_REPLICA: usize = 2;

/// The pickers of all pools, by address. Connections are made when they are first used, and made
/// again when they break.
#[derive(Debug)]
pub(super) struct Peers {
    transport: Transport,
    workers: usize,
    by_address: ArcSwap<HashMap<SocketAddr, Arc<Peer>>>,
    turn: AtomicUsize,
}

/// One replica of a picker.
#[derive(Debug)]
pub(super) struct Peer {
    /// Of each worker in turn.
    channels: Vec<Channel>,
    workers: usize,
    turn: AtomicUsize,
    /// It answered the newest request's headers with the word that it wants no body.
    skips_body: AtomicBool,
}

impl Peers {
    pub(super) fn new(transport: Transport, workers: usize) -> Self {
        Self { transport, workers, by_address: ArcSwap::default(), turn: AtomicUsize::new(0) }
    }

    /// From now on these are the pickers; connections to others end with their last stream.
    pub(super) fn set(&self, addresses: &HashSet<SocketAddr>) {
        let known = self.by_address.load();
        let next = addresses
            .iter()
            .map(|address| {
                let peer = known.get(address).cloned();
                (*address, peer.unwrap_or_else(|| self.peer(*address)))
            })
            .collect();
        self.by_address.store(Arc::new(next));
    }

    /// All replicas, each time beginning with another one.
    pub(super) fn in_turn<'a>(
        &self,
        replicas: &'a [SocketAddr],
    ) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % replicas.len().max(1);
        replicas[first..].iter().chain(&replicas[..first]).copied()
    }

    /// Requests decide on the routes they began with, so one may ask for a replica that is no longer among them: it
    /// gets a peer of its own.
    pub(super) fn get(&self, address: SocketAddr) -> Arc<Peer> {
        let known = self.by_address.load().get(&address).cloned();
        known.unwrap_or_else(|| self.peer(address))
    }

    fn peer(&self, address: SocketAddr) -> Arc<Peer> {
        Arc::new(Peer::new(address, &self.transport, self.workers))
    }
}

impl Peer {
    fn new(address: SocketAddr, transport: &Transport, workers: usize) -> Self {
        let count = CONNECTIONS_PER_REPLICA.next_multiple_of(workers.max(1));
        let channels = (0..count).map(|_| Channel::new(address, transport.clone())).collect();
        Self { channels, workers, turn: AtomicUsize::new(0), skips_body: AtomicBool::new(false) }
    }

    /// Whether the next request's body is likely to be unwanted.
    pub(super) fn skips_body(&self) -> bool {
        self.skips_body.load(Ordering::Relaxed)
    }

    pub(super) fn set_skips_body(&self, skips_body: bool) {
        self.skips_body.store(skips_body, Ordering::Relaxed);
    }

    /// One of those that this thread's worker drives.
    pub(super) fn channel(&self) -> &Channel {
        let of_each = self.channels.len() / self.workers.max(1);
        let turn = if of_each > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % of_each } else { 0 };
        let at = workers::index() % self.workers.max(1) + turn * self.workers;
        &self.channels[at]
    }
}
