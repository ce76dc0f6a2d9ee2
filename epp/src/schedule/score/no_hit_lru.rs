//! `no-hit-lru-scorer`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{PoisonError, RwLock},
};

use serde::Deserialize;

use super::super::{
    plugin::{Needs, Scorer},
    view::View,
};

/// Spreads prompts that no endpoint has in its cache.
#[derive(Debug)]
pub struct NoHitLru {
    capacity: usize,
    used: RwLock<Used>,
}

/// When endpoints last got a prompt that no endpoint had in its cache.
#[derive(Debug, Default)]
struct Used {
    clock: u64,
    at: HashMap<SocketAddr, u64>,
}

/// Spreads prompts that no endpoint has in its cache: `1 - rank / (candidates - 1)`, where the endpoint that got such a prompt
/// longest ago, or never, has rank 0. 0.5 for other prompts.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NoHitLruSettings {
    /// Maximum endpoints that are remembered. Default 1024.
    pub lru_size: NonZeroUsize,
}

impl Default for NoHitLruSettings {
    fn default() -> Self {
        Self { lru_size: const { NonZeroUsize::new(1024).unwrap() } }
    }
}

impl From<NoHitLruSettings> for NoHitLru {
    fn from(settings: NoHitLruSettings) -> Self {
        Self { capacity: settings.lru_size.get(), used: RwLock::default() }
    }
}

impl Scorer for NoHitLru {
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        if !view.is_cold() {
            scores.fill(0.5);
            return;
        }
        let used = self.used.read().unwrap_or_else(PoisonError::into_inner);
        let at = |candidate| view.address(candidate).and_then(|address| used.at.get(&address)).copied();
        let mut order: Vec<_> =
            candidates.iter().enumerate().map(|(index, candidate)| (at(*candidate), index)).collect();
        order.sort_unstable();
        let last = candidates.len().saturating_sub(1).max(1) as f32;
        for (rank, (_, index)) in order.into_iter().enumerate() {
            scores[index] = 1.0 - rank as f32 / last;
        }
    }

    fn picked(&self, view: &View<'_>, candidate: u32) {
        let Some(address) = view.address(candidate).filter(|_| view.is_cold()) else { return };
        let Used { clock, at } = &mut *self.used.write().unwrap_or_else(PoisonError::into_inner);
        *clock += 1;
        at.insert(address, *clock);
        if at.len() > self.capacity {
            let oldest = at.iter().min_by_key(|(_, used_at)| **used_at).map(|(address, _)| *address);
            oldest.and_then(|address| at.remove(&address));
        }
    }
}
