//! The states of all quotas, which survive changes of the routing table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_resources::ObjectKey;
use forebay_routing::Quota;
use forebay_routing::status::QuotaCounting;

use super::QuotaStore;
use super::file::QuotaFile;
use super::share::{Share, Shares};
use super::state::QuotaState;
use super::window::unix_seconds;

#[derive(Debug)]
pub(crate) struct QuotaRegistry {
    store: Option<QuotaStore>,
    file: Option<QuotaFile>,
    shares: Arc<Shares>,
    by_quota: BTreeMap<ObjectKey, Arc<QuotaState>>,
}

impl QuotaRegistry {
    /// `store`: where gateways share the counters. Without it they are in this process, and kept in `file`. `drain`: maximum
    /// time in which a gateway that ends finishes its requests.
    pub(crate) fn new(store: Option<QuotaStore>, file: Option<QuotaFile>, drain: Duration) -> Self {
        Self { store, file, shares: Arc::new(Shares::new(drain)), by_quota: BTreeMap::new() }
    }

    /// Gateways that do not share counters divide limits like this from now on.
    pub(crate) fn divide(&mut self, share: Share) {
        if self.shares.current() == share {
            return;
        }
        if self.store.is_none() {
            tracing::info!(
                gateways = share.gateways(),
                "the number of ready gateways has changed: each admits its share of quotas"
            );
        }
        Arc::make_mut(&mut self.shares).change(share, unix_seconds());
        self.by_quota.values().for_each(|state| state.divide(&self.shares));
    }

    #[cfg(test)]
    pub(super) fn shares(&self) -> &Arc<Shares> {
        &self.shares
    }

    /// Where the counters are.
    pub(crate) fn counting(&self) -> QuotaCounting {
        match self.store {
            Some(_) => QuotaCounting::Store,
            None => QuotaCounting::PerReplica { gateways: self.shares.current().gateways() },
        }
    }

    /// Forgets the states of quotas that do not exist any more, and returns these. Those of quotas that are not valid at the
    /// moment are kept: the correction must not open a window again.
    pub(crate) fn forget(&mut self, exists: impl Fn(&ObjectKey) -> bool) -> Vec<ObjectKey> {
        let gone: Vec<ObjectKey> = self.by_quota.keys().filter(|key| !exists(key)).cloned().collect();
        self.by_quota.retain(|key, _| exists(key));
        if let Some(file) = &self.file {
            file.forget(exists);
        }
        gone
    }

    /// The states of `quotas`, by [`Quota::index`].
    pub(crate) fn update(&mut self, quotas: &[Arc<Quota>]) -> Vec<Arc<QuotaState>> {
        let state = |quota: &Arc<Quota>| {
            let store = self.store.as_ref().map(|store| &store.0);
            let new = || {
                let kept = self.file.as_ref().map(QuotaFile::changed);
                let state = QuotaState::new(quota, store, kept, &self.shares);
                if let Some(file) = &self.file {
                    file.add(&quota.key, &state);
                }
                state
            };
            let known = self.by_quota.entry(quota.key.clone()).or_insert_with(new);
            known.change(&quota.limits);
            known.clone()
        };
        quotas.iter().map(state).collect()
    }
}
