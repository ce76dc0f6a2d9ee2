//! Pools that name no endpoint picker: their endpoints are chosen in this process.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_epp::schedule::Scheduler;
use forebay_epp::{Error, Metrics, Picker, PickerOptions};
use forebay_resources::{ObjectKey, PoolEndpoint, Store};

use crate::observe::PickerMetrics;
use forebay_routing::{Pool, PoolPicker};

/// One picker for each pool that names none. It follows the load of the pool's pods from the first
/// table with the pool to the last; a request that holds an older table still finds its scheduler there.
#[derive(Debug)]
pub(crate) struct InProcessPickers {
    store: Arc<Store>,
    options: PickerOptions,
    by_pool: BTreeMap<ObjectKey, (Picker, Arc<Metrics>)>,
    metrics: Arc<PickerMetrics>,
}

impl InProcessPickers {
    pub(crate) fn new(store: Arc<Store>, options: PickerOptions) -> Self {
        Self { store, options, by_pool: BTreeMap::new(), metrics: Arc::default() }
    }

    /// Of all pickers, as they come and go.
    pub(crate) fn metrics(&self) -> Arc<PickerMetrics> {
        self.metrics.clone()
    }

    /// Ends the pickers of all other pools.
    fn retain(&mut self, pools: &[Arc<Pool>]) {
        let used: BTreeSet<&ObjectKey> = pools
            .iter()
            .filter(|pool| matches!(pool.picker, PoolPicker::InProcess(_)))
            .map(|pool| &pool.key)
            .collect();
        self.by_pool.retain(|pool, _| used.contains(pool));
        self.metrics.set(self.by_pool.values().map(|(_, metrics)| metrics.clone()).collect());
    }
}

impl InProcessPickers {
    /// The schedulers of `pools`, by [`Pool::index`]; they pick among the pools' members of this table.
    /// Pickers of other pools end. Must be called in a tokio runtime.
    pub(crate) fn follow(&mut self, pools: &[Arc<Pool>]) -> Vec<Option<Arc<Scheduler>>> {
        let schedulers = pools
            .iter()
            .map(|pool| {
                let PoolPicker::InProcess(members) = &pool.picker else { return None };
                self.scheduler(&pool.key, members.clone())
                    .inspect_err(|error| tracing::error!(pool = %pool.key, %error, "cannot start the picker of the pool"))
                    .ok()
            })
            .collect();
        self.retain(pools);
        schedulers
    }

    fn scheduler(&mut self, pool: &ObjectKey, members: Vec<PoolEndpoint>) -> Result<Arc<Scheduler>, Error> {
        let (picker, _) = match self.by_pool.entry(pool.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let (store, options) = (self.store.clone(), self.options.clone());
                let metrics = Metrics::of_pool(pool);
                let picker = Picker::start_without_members(store, pool.clone(), metrics.clone(), options)?;
                new.insert((picker, metrics))
            }
        };
        // From here, so that a table and its schedulers have the same members.
        picker.scheduler().endpoints().set_members(Some(members));
        Ok(picker.scheduler().clone())
    }
}
