//! The members of a pool, as picks read them without a lock.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use forebay_resources::PoolEndpoint;

use super::{
    adapters::Adapters,
    cell::Cell,
    models::{ModelList, ServedModels},
};
use crate::signals::Slot;

/// The members between two changes of the membership. The numbers in it change, the members do not.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pool_exists: bool,
    endpoints: Box<[PoolEndpoint]>,
    slots: Box<[Slot]>,
    cells: Box<[Cell]>,
    models: ArcSwap<ServedModels>,
    adapters: Box<[ArcSwapOption<Adapters>]>,
}

impl Snapshot {
    pub(super) fn new(pool_exists: bool, members: impl Iterator<Item = (PoolEndpoint, Slot)>) -> Self {
        let (endpoints, slots): (Vec<_>, Vec<_>) = members.unzip();
        let cells = endpoints.iter().map(|_| Cell::default()).collect();
        let adapters = endpoints.iter().map(|_| ArcSwapOption::empty()).collect();
        let models = ArcSwap::default();
        Self { pool_exists, endpoints: endpoints.into(), slots: slots.into(), cells, models, adapters }
    }

    pub(crate) fn pool_exists(&self) -> bool {
        self.pool_exists
    }

    /// Which endpoints serve which models.
    pub(crate) fn models(&self) -> arc_swap::Guard<Arc<ServedModels>> {
        self.models.load()
    }

    /// The lists of all endpoints, in their order.
    pub(super) fn set_models(&self, lists: impl Iterator<Item = Option<ModelList>>) {
        self.models.store(Arc::new(ServedModels::new(lists)));
    }

    /// The adapters of an endpoint. `None` if its engine has reported none.
    pub(crate) fn adapters(&self, index: usize) -> arc_swap::Guard<Option<Arc<Adapters>>> {
        self.adapters[index].load()
    }

    pub(crate) fn set_adapters(&self, index: usize, adapters: Option<Adapters>) {
        self.adapters[index].store(adapters.map(Arc::new));
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
