//! What plugins see: the request and the endpoints at one time.

use std::{net::SocketAddr, sync::Arc};

use forebay_resources::ObjectKey;

use super::{headers::Headers, prompt::Prompt};
use crate::{
    endpoints::{self, Cell, ServedModels, Snapshot, added_waiting},
    signals::{BLOCK_BYTES, Lookup},
};

/// What an engine has of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterState {
    /// It is in a slot.
    Resident,
    /// A slot is free, or has an adapter without requests.
    Room,
    /// Requests for it wait for a slot.
    Waiting,
    /// All slots have other adapters with requests.
    Full,
}

/// The request, the endpoints and the time of a decision.
#[derive(Debug)]
pub struct View<'a> {
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) prompt: Option<&'a Prompt>,
    pub(super) headers: Option<&'a dyn Headers>,
    /// The model or adapter that the engine runs.
    pub(super) model: Option<&'a str>,
    pub(super) models: &'a ServedModels,
    pub(super) lookup: &'a Lookup,
    pub(super) now: f64,
}

impl View<'_> {
    pub(super) fn cell(&self, candidate: u32) -> &Cell {
        self.snapshot.cell(candidate as usize)
    }

    /// Seconds since an arbitrary time.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// A request header. `name`: in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.and_then(|headers| headers.get(name))
    }

    /// A label of the endpoint's pod.
    pub fn label(&self, candidate: u32, name: &str) -> Option<&str> {
        self.snapshot.endpoint(candidate as usize)?.labels.get(name).map(String::as_str)
    }

    /// The endpoint's pod.
    pub fn pod(&self, candidate: u32) -> Option<&ObjectKey> {
        self.snapshot.endpoint(candidate as usize).map(|endpoint| &endpoint.pod)
    }

    /// The endpoint's address.
    pub fn address(&self, candidate: u32) -> Option<SocketAddr> {
        self.snapshot.address(candidate as usize)
    }

    /// Whether no endpoint of the pool is believed to have a block of the prompt in its cache.
    pub fn is_cold(&self) -> bool {
        (0..self.snapshot.len()).all(|candidate| self.matched_blocks(candidate as u32) == 0)
    }

    /// Bytes of the prompt. 0 if it is not known.
    pub fn prompt_bytes(&self) -> u64 {
        self.prompt.map_or(0, |prompt| prompt.bytes)
    }

    /// Number of blocks of the prompt.
    pub fn prompt_blocks(&self) -> usize {
        self.prompt.map_or(0, |prompt| prompt.blocks.len())
    }

    /// Leading blocks of the prompt that the endpoint is believed to have in its cache.
    pub fn matched_blocks(&self, candidate: u32) -> u32 {
        self.lookup.matched(self.snapshot.slot(candidate as usize))
    }

    /// Bytes of the prompt that the endpoint is believed to have in its cache.
    pub fn matched_bytes(&self, candidate: u32) -> u64 {
        (u64::from(self.matched_blocks(candidate)) * BLOCK_BYTES).min(self.prompt_bytes())
    }

    /// The adapter that the request is for. `None`: it is for a base model, or its model is not known.
    pub fn adapter(&self) -> Option<&str> {
        self.model.filter(|model| self.models.is_adapter(model))
    }

    /// What the endpoint's engine has of the adapter. `None` if not known.
    pub fn adapter_state(&self, candidate: u32, adapter: &str) -> Option<AdapterState> {
        let known = self.snapshot.adapters(candidate as usize);
        let adapters = known.as_ref().filter(|_| self.now <= self.cell(candidate).engine_until())?;
        Some(if adapters.is_resident(adapter) {
            AdapterState::Resident
        } else if adapters.has_room() {
            AdapterState::Room
        } else if adapters.is_waiting(adapter) {
            AdapterState::Waiting
        } else {
            AdapterState::Full
        })
    }

    /// Whether the endpoint's engine may not work.
    pub fn is_suspect(&self, candidate: u32) -> bool {
        self.now <= self.cell(candidate).suspect_until()
    }

    /// Requests in flight of all clients, as far as known.
    pub fn in_flight(&self, candidate: u32) -> f32 {
        self.cell(candidate).in_flight(self.now)
    }

    /// Requests in flight that this process picked the endpoint for.
    pub fn own_in_flight(&self, candidate: u32) -> f32 {
        self.cell(candidate).own_in_flight()
    }

    /// Uncached bytes of own requests without a first byte.
    pub fn own_backlog_bytes(&self, candidate: u32) -> f32 {
        self.cell(candidate).own_backlog_bytes()
    }

    /// Bytes of the prompts of own requests in flight.
    pub fn own_prompt_bytes(&self, candidate: u32) -> f32 {
        self.cell(candidate).own_prompt_bytes()
    }

    /// Requests in the engine's queue. `None` if not known.
    pub fn queued(&self, candidate: u32) -> Option<f32> {
        let cell = self.cell(candidate);
        cell.engine(cell.queued(), self.now)
    }

    /// Requests that the engine runs. `None` if not known.
    pub fn running(&self, candidate: u32) -> Option<f32> {
        let cell = self.cell(candidate);
        cell.engine(cell.running(), self.now)
    }

    /// Used share of the KV cache, 0 to 1. `None` if not known.
    pub fn kv_usage(&self, candidate: u32) -> Option<f32> {
        let cell = self.cell(candidate);
        cell.engine(cell.kv_usage(), self.now)
    }

    /// Seconds of waiting that the request adds for itself and all others at the endpoint.
    pub fn added_waiting(&self, candidate: u32) -> f32 {
        let bytes = self.prompt_bytes() as f32;
        let prompt = endpoints::Prompt { bytes, matched_bytes: self.matched_bytes(candidate) as f32 };
        added_waiting(self.cell(candidate), prompt, self.now)
    }
}
