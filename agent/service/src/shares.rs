//! A limit that peers share: streams, subscribers, or bytes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A limit of which no peer can take everything.
///
/// A peer can take an amount while it holds less than `weight` times what is free then. One peer alone gets
/// `weight / (weight + 1)` of the limit, and a peer that holds little gets something while anything is free.
#[derive(Debug)]
pub struct Shares {
    limit: usize,
    weight: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    /// Peers that hold something.
    by_peer: HashMap<IpAddr, usize>,
}

/// A taken amount, released when it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    peer: IpAddr,
    amount: usize,
}

impl Shares {
    /// Shares `limit` between peers.
    pub fn new(limit: usize, weight: usize) -> Arc<Self> {
        Arc::new(Self { limit, weight, held: Mutex::default() })
    }

    /// Takes `amount` for `peer`. `None` if the peer holds its share, or too little is free.
    pub fn take(self: &Arc<Self>, peer: IpAddr, amount: usize) -> Option<Share> {
        self.try_take(peer, amount).then(|| Share { shares: Arc::clone(self), peer, amount })
    }

    /// As [`Shares::take`], for an amount that the caller gives to [`Shares::release`].
    pub fn try_take(&self, peer: IpAddr, amount: usize) -> bool {
        let mut held = self.lock();
        let free = self.limit.saturating_sub(held.total);
        let own = held.by_peer.get(&peer).copied().unwrap_or_default();
        if amount > free || own >= free.saturating_mul(self.weight) {
            return false;
        }
        held.total += amount;
        *held.by_peer.entry(peer).or_default() += amount;
        true
    }

    /// Releases an amount of [`Shares::try_take`].
    pub fn release(&self, peer: IpAddr, amount: usize) {
        let mut held = self.lock();
        held.total = held.total.saturating_sub(amount);
        if let Some(own) = held.by_peer.get_mut(&peer) {
            *own = own.saturating_sub(amount);
            if *own == 0 {
                held.by_peer.remove(&peer);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.release(self.peer, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_takes_all_it_can_leaves_something_for_every_other_one() {
        let shares = Shares::new(256, 1);
        let mut taken = Vec::new();
        let mut counts = Vec::new();
        for n in 0..6 {
            let before = taken.len();
            while let Some(share) = shares.take(IpAddr::from([10, 0, 0, n]), 1) {
                taken.push(share);
            }
            counts.push(taken.len() - before);
        }
        assert_eq!(counts, [128, 64, 32, 16, 8, 4]);
        drop(taken);
        assert!(shares.lock().by_peer.is_empty() && shares.lock().total == 0);
    }

    #[test]
    fn an_amount_over_the_free_rest_is_refused() {
        let shares = Shares::new(10, 3);
        let peer = IpAddr::from([10, 0, 0, 1]);
        let all = shares.take(peer, 10).unwrap();
        assert!(shares.take(peer, 1).is_none());
        drop(all);
        assert!(shares.take(peer, 11).is_none());
        assert!(shares.take(peer, 1).is_some());
    }
}
