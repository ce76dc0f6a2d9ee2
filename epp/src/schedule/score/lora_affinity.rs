//! `lora-affinity-scorer`: adapters that engines hold ready.

use std::{
    hash::BuildHasher as _,
    net::SocketAddr,
    sync::{PoisonError, RwLock},
};

use super::super::{
    plugin::{Needs, Scorer},
    view::{AdapterState, View},
};

/// Maximum picks that are remembered.
const MAX_PICKS: usize = 4096;
/// How long a pick counts as a loaded adapter: until the engine has been scraped after it.
const PICK_SECONDS: f64 = 5.0;

/// Prefers endpoints that need not load the request's adapter: 1 if the adapter is in a slot of the engine, 0.8 if the engine
/// has a slot for it, 0.6 if requests for the adapter wait, else 0. An adapter stays in its slot after its last request, until
/// others need the slot. An endpoint that was just picked for the adapter gets 1, too. Requests for base models get 1
/// everywhere. An engine that does not report its adapters gets 0.8.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LoraAffinity {
    #[cfg_attr(test, schemars(skip))]
    hasher: foldhash::fast::RandomState,
    /// When endpoints were picked for adapters, by hash of the adapter.
    #[cfg_attr(test, schemars(skip))]
    picked: RwLock<foldhash::HashMap<(SocketAddr, u64), f64>>,
}

impl LoraAffinity {
    fn is_picked(&self, view: &View<'_>, candidate: u32, adapter: u64) -> bool {
        let picked = self.picked.read().unwrap_or_else(PoisonError::into_inner);
        let at = view.address(candidate).and_then(|address| picked.get(&(address, adapter)));
        at.is_some_and(|at| view.now() <= at + PICK_SECONDS)
    }
}

impl Scorer for LoraAffinity {
    /// The body names the adapter.
    fn needs(&self) -> Needs {
        Needs { prompt: true }
    }

    fn score(&self, view: &View<'_>, candidates: &[u32], scores: &mut [f32]) {
        let Some(adapter) = view.adapter() else { return scores.fill(1.0) };
        let hash = self.hasher.hash_one(adapter);
        for (candidate, score) in candidates.iter().zip(scores) {
            *score = match view.adapter_state(*candidate, adapter) {
                Some(AdapterState::Resident) => 1.0,
                _ if self.is_picked(view, *candidate, hash) => 1.0,
                Some(AdapterState::Room) | None => 0.8,
                Some(AdapterState::Waiting) => 0.6,
                Some(AdapterState::Full) => 0.0,
            };
        }
    }

    fn picked(&self, view: &View<'_>, candidate: u32) {
        let (Some(adapter), Some(address)) = (view.adapter(), view.address(candidate)) else { return };
        let now = view.now();
        let mut picked = self.picked.write().unwrap_or_else(PoisonError::into_inner);
        if picked.len() >= MAX_PICKS {
            picked.retain(|_, at| now <= *at + PICK_SECONDS);
        }
        if picked.len() < MAX_PICKS {
            picked.insert((address, self.hasher.hash_one(adapter)), now);
        }
    }
}
