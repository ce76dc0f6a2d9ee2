//! Pickers in this process, for pools without an `endpointPickerRef`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_epp::schedule::Scheduler;
use forebay_epp::{Agents, Error, Picker, PickerOptions, PoolMetrics};
use forebay_resources::{ObjectKey, PoolEndpoint, Store};
use forebay_routing::{Pool, PoolPicker};

/// One picker per pool without an endpoint picker of its own.
///
/// A picker follows the load of the pool's pods as long as a routing table has the pool. A request that still uses an
/// older table keeps the scheduler alive. All pickers share one telemetry stream per agent, which is closed with the last picker.
#[derive(Debug)]
pub(crate) struct InProcessPickers {
    store: Arc<Store>,
    options: PickerOptions,
    by_pool: BTreeMap<ObjectKey, Picker>,
    agents: Option<Arc<Agents>>,
    metrics: PoolMetrics,
}

impl InProcessPickers {
    /// The pickers add their metrics to `metrics`.
    pub(crate) fn new(store: Arc<Store>, options: PickerOptions, metrics: PoolMetrics) -> Self {
        Self { store, options, by_pool: BTreeMap::new(), agents: None, metrics }
    }

    /// The schedulers of `pools`, by [`Pool::index`], with the pools' members. Stops the pickers of all other pools.
    /// Must be called in a tokio runtime.
    pub(crate) fn update(&mut self, pools: &[Arc<Pool>]) -> Vec<Option<Arc<Scheduler>>> {
        let schedulers = pools
            .iter()
            .map(|pool| {
                let PoolPicker::InProcess(members) = &pool.picker else { return None };
                self.scheduler(&pool.key, members.clone())
                    .inspect_err(|error| tracing::error!(pool = %pool.key, %error, "cannot start the in-process picker of the pool"))
                    .ok()
            })
            .collect();
        self.retain(pools);
        schedulers
    }

    fn retain(&mut self, pools: &[Arc<Pool>]) {
        let used: BTreeSet<&ObjectKey> = pools
            .iter()
            .filter(|pool| matches!(pool.picker, PoolPicker::InProcess(_)))
            .map(|pool| &pool.key)
            .collect();
        self.by_pool.retain(|pool, _| used.contains(pool));
        if self.by_pool.is_empty() {
            self.agents = None;
        }
    }

    fn scheduler(&mut self, pool: &ObjectKey, members: Vec<PoolEndpoint>) -> Result<Arc<Scheduler>, Error> {
        let picker = match self.by_pool.entry(pool.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let agents = match &self.agents {
                    Some(agents) => agents,
                    None => {
                        let agents = self.options.follow_agents(self.store.clone(), "gateway".to_owned())?;
                        self.metrics.watch_agents(&agents);
                        self.agents.insert(agents)
                    }
                };
                let metrics = self.metrics.for_pool(pool);
                new.insert(Picker::new(agents, pool.clone(), metrics, &self.options))
            }
        };
        // Set here, so that a routing table and its schedulers have the same members.
        picker.set_members(Some(members));
        Ok(picker.scheduler().clone())
    }
}
