//! Keeps the served pools up to date.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use forebay_resources::{ObjectKey, PoolChanges, Snapshot, Store};
use tokio_util::task::AbortOnDropHandle;

use super::{Directory, PoolScope, ServedPool};
use crate::{
    Error, Picker, PickerOptions,
    agents::Agents,
    metrics::{Metrics, PoolMetrics},
    schedule::Scheduler,
};

/// The served pools. They are followed until this is dropped.
#[derive(Debug)]
pub struct Pools {
    directory: Arc<ArcSwap<Directory>>,
    agents: Arc<Agents>,
    metrics: PoolMetrics,
    unrouted: Arc<Metrics>,
    _follow: AbortOnDropHandle<()>,
}

impl Pools {
    /// Starts following the pools of `scope`, their members and the agents in `store`. What the store has is served when this
    /// returns. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// The agent selector is invalid.
    pub fn start(store: Arc<Store>, scope: PoolScope, options: PickerOptions) -> Result<Self, Error> {
        let subscriber = match &scope {
            PoolScope::One(pool) => format!("epp {pool}"),
            PoolScope::Namespaces(_) | PoolScope::All => "epp".to_owned(),
        };
        let agents = options.follow_agents(store.clone(), subscriber)?;
        let metrics = PoolMetrics::default();
        metrics.watch_agents(&agents);
        let unrouted = match &scope {
            PoolScope::One(_) => metrics.for_only_pool(),
            PoolScope::Namespaces(_) | PoolScope::All => metrics.for_no_pool(),
        };
        let directory =
            Directory::new(scope.clone(), false, BTreeMap::new(), &Snapshot::default().inference_pools);
        let directory = Arc::new(ArcSwap::from_pointee(directory));
        let generations = store.subscribe();
        let mut follower = Follower {
            scope,
            options,
            agents: agents.clone(),
            metrics: metrics.clone(),
            unrouted: unrouted.clone(),
            directory: directory.clone(),
            pickers: BTreeMap::new(),
            changes: PoolChanges::default(),
        };
        follower.update(&store.snapshot());
        let follow = tokio::spawn(follower.run(store, generations));
        Ok(Self { directory, agents, metrics, unrouted, _follow: AbortOnDropHandle::new(follow) })
    }

    /// The pools that are served now.
    pub fn directory(&self) -> arc_swap::Guard<Arc<Directory>> {
        self.directory.load()
    }

    /// The pools as they change.
    pub(crate) fn current(&self) -> Arc<ArcSwap<Directory>> {
        Arc::clone(&self.directory)
    }

    /// The scheduler of a pool. `None` if it is not served.
    pub fn scheduler(&self, pool: &ObjectKey) -> Option<Arc<Scheduler>> {
        self.directory().get(pool).map(|pool| Arc::clone(&pool.scheduler))
    }

    /// The telemetry streams.
    pub fn agents(&self) -> &Arc<Agents> {
        &self.agents
    }

    /// The metrics of streams whose pool is not known yet: those of the only pool, if there is only one.
    pub(crate) fn unrouted(&self) -> Arc<Metrics> {
        Arc::clone(&self.unrouted)
    }

    /// The metrics of all pools.
    pub fn metrics(&self) -> &PoolMetrics {
        &self.metrics
    }
}

struct Follower {
    scope: PoolScope,
    options: PickerOptions,
    agents: Arc<Agents>,
    metrics: PoolMetrics,
    unrouted: Arc<Metrics>,
    directory: Arc<ArcSwap<Directory>>,
    pickers: BTreeMap<ObjectKey, (Picker, ServedPool)>,
    changes: PoolChanges,
}

impl Follower {
    async fn run(mut self, store: Arc<Store>, mut generations: tokio::sync::watch::Receiver<u64>) {
        while generations.changed().await.is_ok() {
            self.update(&store.snapshot());
        }
    }

    /// Updates the pools that a snapshot changes.
    fn update(&mut self, snapshot: &Snapshot) {
        let mut changed = self.changes.next(snapshot);
        if let PoolScope::One(only) = &self.scope
            && !self.pickers.contains_key(only)
        {
            changed.insert(only.clone());
        }
        let mut is_new_directory = self.directory.load().is_loaded() != self.scope.is_loaded(snapshot);
        changed.retain(|key| self.scope.has(key));
        for key in changed {
            is_new_directory = true;
            let exists = snapshot.inference_pools.contains_key(&key);
            if exists || matches!(self.scope, PoolScope::One(_)) {
                let (picker, _) = self.picker(&key);
                picker.set_members(exists.then(|| snapshot.pool_endpoints(&key)));
            } else {
                self.pickers.remove(&key);
            }
        }
        if is_new_directory {
            self.publish(snapshot);
        }
    }

    fn picker(&mut self, key: &ObjectKey) -> &mut (Picker, ServedPool) {
        self.pickers.entry(key.clone()).or_insert_with(|| {
            let metrics = match &self.scope {
                PoolScope::One(_) => self.unrouted.clone(),
                PoolScope::Namespaces(_) | PoolScope::All => self.metrics.for_pool(key),
            };
            let picker = Picker::new(&self.agents, key.clone(), metrics.clone(), &self.options);
            let served = ServedPool { scheduler: picker.scheduler().clone(), metrics };
            (picker, served)
        })
    }

    fn publish(&self, snapshot: &Snapshot) {
        let pools = self.pickers.iter().map(|(key, (_, served))| (key.clone(), served.clone())).collect();
        let is_loaded = self.scope.is_loaded(snapshot);
        let directory = Directory::new(self.scope.clone(), is_loaded, pools, &snapshot.inference_pools);
        self.directory.store(Arc::new(directory));
    }
}
