//! The members of a pool, as picks read them without a lock.

use std::net::SocketAddr;

use forebay_resources::PoolEndpoint;

use super::cell::Cell;
use crate::signals::Slot;

/// The members between two changes of the membership. The numbers in it change, the members do not.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pool_exists: bool,
    endpoints: Box<[PoolEndpoint]>,
    slots: Box<[Slot]>,
    cells: Box<[Cell]>,
}

impl Snapshot {
    pub(super) fn new(pool_exists: bool, members: impl Iterator<Item = (PoolEndpoint, Slot)>) -> Self {
        let (endpoints, slots): (Vec<_>, Vec<_>) = members.unzip();
        let cells = endpoints.iter().map(|_| Cell::default()).collect();
        Self { pool_exists, endpoints: endpoints.into(), slots: slots.into(), cells }
    }

    pub(crate) fn pool_exists(&self) -> bool {
        self.pool_exists
    }

    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(crate) fn endpoint(&self, index: usize) -> Option<&PoolEndpoint> {
        self.endpoints.get(index)
    }

    pub(crate) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.endpoint(index).map(|endpoint| endpoint.address)
    }

    pub(crate) fn position(&self, address: SocketAddr) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.address == address)
    }

    /// The number of the endpoint in the prefix index.
    pub(crate) fn slot(&self, index: usize) -> Slot {
        self.slots[index]
    }

    pub(crate) fn cell(&self, index: usize) -> &Cell {
        &self.cells[index]
    }
}
