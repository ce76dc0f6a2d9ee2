//! The key sets of all policies, which survive changes of the routing table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use forebay_routing::{JwksId, JwtKeys, RemoteJwks, RemoteKeys};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::loader::KeySet;
use crate::observe::Metrics;

/// Maximum key sets that are loaded, each by a task of its own. Tokens of further ones are not accepted.
const MAX_KEY_SETS: usize = 256;

/// Key sets by what policies call them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeySets(Arc<HashMap<JwksId, Arc<KeySet>>>);

impl RemoteKeys for KeySets {
    fn loaded(&self, id: &JwksId) -> Option<Arc<JwtKeys>> {
        self.0.get(id)?.keys()
    }

    fn refresh(&self, id: &JwksId) {
        if let Some(set) = self.0.get(id) {
            set.demand();
        }
    }
}

/// Starts and stops the loaders.
#[derive(Debug)]
pub(crate) struct KeySetRegistry {
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
    loaders: HashMap<JwksId, (Arc<KeySet>, CancellationToken)>,
    /// Whether it was logged that there are too many.
    is_full: bool,
}

impl KeySetRegistry {
    pub(crate) fn new(metrics: Arc<Metrics>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { metrics, tasks, stop, loaders: HashMap::new(), is_full: false }
    }

    /// The key sets that the newest table names. Others are forgotten.
    pub(crate) fn update(&mut self, wanted: &BTreeMap<JwksId, Arc<RemoteJwks>>) -> KeySets {
        let was_full = std::mem::replace(&mut self.is_full, wanted.len() > MAX_KEY_SETS);
        if self.is_full && !was_full {
            tracing::warn!(
                "policies name {} JSON Web Key Sets of servers, and only {MAX_KEY_SETS} are loaded: tokens that need others are rejected with status 503; use fewer",
                wanted.len()
            );
        }
        let mut old = std::mem::take(&mut self.loaders);
        for (id, source) in wanted.iter().take(MAX_KEY_SETS) {
            let loader = old.remove(id).unwrap_or_else(|| self.start(source));
            loader.0.change(source);
            self.loaders.insert(id.clone(), loader);
        }
        for (id, (_, stop)) in old {
            stop.cancel();
            self.metrics.key_set_forgotten(&id);
        }
        let sets = self.loaders.iter().map(|(id, (set, _))| (id.clone(), set.clone()));
        KeySets(Arc::new(sets.collect()))
    }

    fn start(&self, source: &Arc<RemoteJwks>) -> (Arc<KeySet>, CancellationToken) {
        let (set, stop) = (Arc::new(KeySet::new(source.clone())), self.stop.child_token());
        let running = set.clone().run(self.metrics.clone());
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(running));
        (set, stop)
    }
}
