//! Which pools have an endpoint.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
};

use forebay_resources::PoolEndpoint;

use crate::endpoints::Endpoints;

/// Identifies a pool that reads telemetry.
pub(super) type ReaderId = u64;

/// A pool that reads telemetry.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) id: ReaderId,
    pub(super) endpoints: Arc<Endpoints>,
}

/// The members of all pools, by pool and by address.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Address and uid of the members of each pool.
    members: HashMap<ReaderId, HashMap<SocketAddr, String>>,
    pools: foldhash::HashMap<SocketAddr, Vec<Pool>>,
}

/// What a change of the members means for the agents.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Addresses of other pods than before.
    pub(super) added: Vec<SocketAddr>,
    pub(super) removed: Vec<SocketAddr>,
}

impl Moved {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl Routes {
    /// Replaces the members of a pool.
    pub(super) fn set(&mut self, pool: &Pool, members: &[PoolEndpoint]) -> Moved {
        let new: HashMap<SocketAddr, String> =
            members.iter().rev().map(|member| (member.address, member.uid.clone())).collect();
        let old = self.members.entry(pool.id).or_default();
        let added = new.iter().filter(|(address, uid)| old.get(address) != Some(uid));
        let removed = old.keys().filter(|address| !new.contains_key(address));
        let moved = Moved {
            added: added.map(|(address, _)| *address).collect(),
            removed: removed.copied().collect(),
        };
        for address in &moved.added {
            if !old.contains_key(address) {
                self.pools.entry(*address).or_default().push(pool.clone());
            }
        }
        *old = new;
        for address in &moved.removed {
            self.forget(*address, pool.id);
        }
        moved
    }

    /// Removes a pool.
    pub(super) fn remove(&mut self, id: ReaderId) {
        for address in self.members.remove(&id).unwrap_or_default().into_keys() {
            self.forget(address, id);
        }
    }

    fn forget(&mut self, address: SocketAddr, id: ReaderId) {
        if let Entry::Occupied(mut pools) = self.pools.entry(address) {
            pools.get_mut().retain(|pool| pool.id != id);
            if pools.get().is_empty() {
                pools.remove();
            }
        }
    }

    /// The pools that have this endpoint.
    pub(super) fn pools_of(&self, address: SocketAddr) -> &[Pool] {
        self.pools.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Whether the address belongs to this pod in the pool. Pods of a folder may have no uid.
    pub(super) fn has(&self, id: ReaderId, address: SocketAddr, uid: &str) -> bool {
        let known = self.members.get(&id).and_then(|members| members.get(&address));
        known.is_some_and(|known| known.is_empty() || uid.is_empty() || known == uid)
    }
}
