//! The states of all quotas, which survive changes of the routing table.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_resources::ObjectKey;
use forebay_routing::Quota;

use super::QuotaStore;
use super::state::QuotaState;

#[derive(Debug, Default)]
pub(crate) struct QuotaRegistry {
    store: Option<QuotaStore>,
    by_quota: BTreeMap<ObjectKey, Arc<QuotaState>>,
}

impl QuotaRegistry {
    /// `store`: where gateways share the counters. Without it they are in this process.
    pub(crate) fn new(store: Option<QuotaStore>) -> Self {
        Self { store, by_quota: BTreeMap::new() }
    }

    /// Forgets the states of quotas that do not exist any more, and returns these. Those of quotas that are not valid at the
    /// moment are kept: the correction must not open a window again.
    pub(crate) fn forget(&mut self, exists: impl Fn(&ObjectKey) -> bool) -> Vec<ObjectKey> {
        let gone: Vec<ObjectKey> = self.by_quota.keys().filter(|key| !exists(key)).cloned().collect();
        self.by_quota.retain(|key, _| exists(key));
        gone
    }

    /// The states of `quotas`, by [`Quota::index`].
    pub(crate) fn update(&mut self, quotas: &[Arc<Quota>]) -> Vec<Arc<QuotaState>> {
        let state = |quota: &Arc<Quota>| {
            let new = || QuotaState::new(quota, self.store.as_ref().map(|store| &store.0));
            let known = self.by_quota.entry(quota.key.clone()).or_insert_with(new);
            known.change(&quota.limits);
            known.clone()
        };
        quotas.iter().map(state).collect()
    }
}
