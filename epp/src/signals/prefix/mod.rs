//! Which endpoint is believed to have which prompt prefixes in its KV cache.
//!
//! The belief is approximate: a block is held from the pick that sends it to an endpoint until the endpoint's share is
//! full of newer blocks. Its capacity is what the engine reports, and engines evict in the same order: least recently used
//! first, and of one prompt the last blocks first.
//!
//! A block is known by a hash over itself and all blocks before it, so two prompts that share a block share its prefix, and an
//! endpoint that holds a block holds all blocks before it.

mod holders;
mod lru;

use std::{
    collections::hash_map::Entry,
    sync::{
        Arc, LazyLock, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use self::{holders::Holders, lru::Lru};

/// Number of an endpoint in the index. Reused after the endpoint is gone.
pub(crate) type Slot = u32;

/// Bytes of prompt in a block.
pub const BLOCK_BYTES: u64 = 256;
/// Capacity of an endpoint whose engine does not report its cache: 8 MiB of prompt, about two million tokens.
const DEFAULT_CAPACITY: usize = 32 << 10;
/// About the memory of one block of one endpoint: its node, and its share of the map.
const BYTES_PER_BLOCK: usize = 80;

/// An index may hold this many times as many blocks as are free, so one index alone holds three quarters of the budget.
const SHARE_WEIGHT: usize = 3;

/// Bounds the blocks of all indexes that share it.
#[derive(Debug)]
pub(crate) struct IndexBudget {
    left: AtomicUsize,
}

/// Memory for the prefix indexes of all pools of the process, about.
const PROCESS_BYTES: usize = 64 << 20;

impl IndexBudget {
    /// The budget of all pools of the process: a gateway may pick for hundreds of them.
    pub(crate) fn of_process() -> Arc<Self> {
        static BUDGET: LazyLock<Arc<IndexBudget>> = LazyLock::new(|| IndexBudget::new(PROCESS_BYTES));
        Arc::clone(&BUDGET)
    }

    /// `bytes`: memory of all indexes, about.
    fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes / BYTES_PER_BLOCK) })
    }

    /// Takes one block for an index that holds `held`, if the index stays within its share.
    fn take(&self, held: usize) -> bool {
        let within_share = |left: usize| (held < SHARE_WEIGHT * left).then(|| left.saturating_sub(1));
        self.left.fetch_update(Relaxed, Relaxed, within_share).is_ok()
    }

    fn is_over_share(&self, held: usize) -> bool {
        held > SHARE_WEIGHT * self.left.load(Relaxed)
    }

    fn release(&self, blocks: usize) {
        self.left.fetch_add(blocks, Relaxed);
    }
}

/// The prefix index of one pool.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    state: RwLock<State>,
    budget: Arc<IndexBudget>,
}

#[derive(Debug, Default)]
struct State {
    blocks: foldhash::HashMap<u64, Holders>,
    /// By slot.
    endpoints: Vec<Cache>,
    /// Blocks of all endpoints.
    held: usize,
}

/// The believed cache of one endpoint.
#[derive(Debug)]
struct Cache {
    lru: Lru,
    capacity: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { lru: Lru::default(), capacity: DEFAULT_CAPACITY }
    }
}

/// Reused memory of a lookup.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    active: Vec<u64>,
    kept: Vec<u64>,
    /// By slot: the number of leading blocks that the endpoint holds.
    matched: Vec<u32>,
}

impl Lookup {
    /// The number of leading blocks that the endpoint holds.
    pub(crate) fn matched(&self, slot: Slot) -> u32 {
        self.matched.get(slot as usize).copied().unwrap_or(0)
    }
}

impl Lookup {
    /// No endpoint has an end yet.
    fn start(&mut self, slots: usize) {
        self.matched.clear();
        self.matched.resize(slots, 0);
        self.active.clear();
        self.active.resize(slots.div_ceil(u64::BITS as usize), u64::MAX);
        self.kept.clear();
        self.kept.resize(self.active.len(), 0);
    }

    /// All endpoints that have no end yet hold `walked` blocks.
    fn end(&mut self, walked: usize) {
        self.kept.fill(0);
        record(&self.active, &self.kept, walked, &mut self.matched);
    }
}

impl PrefixIndex {
    pub(crate) fn new(budget: Arc<IndexBudget>) -> Self {
        Self { state: RwLock::default(), budget }
    }

    /// Finds the longest prefix that each endpoint holds. `keys`: the blocks of the prompt in order.
    ///
    /// An endpoint that holds a block holds all blocks before it, so the ends of prefixes are found by search, not by a visit
    /// of every block.
    pub(crate) fn look_up(&self, keys: &[u64], lookup: &mut Lookup) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        lookup.start(state.endpoints.len());
        // Nearly all endpoints end before the first block.
        let mut at = 0;
        let mut step = 1;
        while at < keys.len() {
            let until = (at + step).min(keys.len());
            if at > 0 && state.all_hold(keys[until - 1], lookup) {
                at = until;
                step *= 2;
                continue;
            }
            let first = if at == 0 {
                0
            } else {
                at + keys[at..until].partition_point(|key| state.all_hold(*key, lookup))
            };
            if !state.keep_holders(keys[first], first, lookup) {
                return;
            }
            at = first + 1;
            step = 1;
        }
        lookup.end(keys.len());
    }

    /// Whether any endpoint holds the block.
    pub(crate) fn is_held(&self, key: u64) -> bool {
        self.state.read().unwrap_or_else(PoisonError::into_inner).blocks.contains_key(&key)
    }

    /// The endpoint gets a prompt with these blocks.
    pub(crate) fn insert(&self, slot: Slot, keys: &[u64]) {
        let state = &mut *self.state.write().unwrap_or_else(PoisonError::into_inner);
        let cache = endpoint(&mut state.endpoints, slot);
        let keys = &keys[..keys.len().min(cache.capacity)];
        let node = |key: &u64| state.blocks.get(key).and_then(|holders| holders.node(slot));
        let held = keys.partition_point(|key| node(key).is_some());
        let mut last = held.checked_sub(1).and_then(|last| node(&keys[last]));
        if let Some(last) = last {
            cache.lru.pin(last);
        }
        for key in &keys[held..] {
            let may_grow = cache.lru.len() < cache.capacity && self.budget.take(state.held);
            if may_grow {
                state.held += 1;
            } else {
                // The endpoint's oldest block makes room.
                if !evict_oldest(cache, &mut state.blocks, slot) {
                    break;
                }
                if self.budget.is_over_share(state.held) && evict_oldest(cache, &mut state.blocks, slot) {
                    state.held -= 1;
                    self.budget.release(1);
                }
            }
            let node = cache.lru.add(*key, last);
            if let Some(last) = last.replace(node) {
                cache.lru.unpin(last);
            }
            match state.blocks.entry(*key) {
                Entry::Occupied(mut holders) => holders.get_mut().add(slot, node),
                Entry::Vacant(place) => {
                    place.insert(Holders::one(slot, node));
                }
            }
        }
        if let Some(last) = last {
            cache.lru.used(last);
        }
    }

    /// Sets the number of blocks that the endpoint's engine can hold. `None`: not known.
    pub(crate) fn set_capacity(&self, slot: Slot, blocks: Option<usize>) {
        let state = &mut *self.state.write().unwrap_or_else(PoisonError::into_inner);
        let cache = endpoint(&mut state.endpoints, slot);
        cache.capacity = blocks.unwrap_or(DEFAULT_CAPACITY);
        while cache.lru.len() > cache.capacity {
            evict_oldest(cache, &mut state.blocks, slot);
            state.held -= 1;
            self.budget.release(1);
        }
    }

    /// The engine restarted, or the endpoint is gone: it holds nothing.
    pub(crate) fn clear(&self, slot: Slot) {
        let state = &mut *self.state.write().unwrap_or_else(PoisonError::into_inner);
        let Some(cache) = state.endpoints.get_mut(slot as usize) else { return };
        state.held -= cache.lru.len();
        self.budget.release(cache.lru.len());
        while cache.lru.len() > 0 {
            evict_oldest(cache, &mut state.blocks, slot);
        }
        *cache = Cache::default();
    }

    /// Number of blocks that the endpoint is believed to hold.
    #[cfg(test)]
    pub(crate) fn blocks(&self, slot: Slot) -> usize {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.endpoints.get(slot as usize).map_or(0, |cache| cache.lru.len())
    }
}

impl Drop for PrefixIndex {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.release(state.held);
    }
}

impl State {
    /// Whether all endpoints of the lookup that have no end yet hold the block.
    fn all_hold(&self, key: u64, lookup: &Lookup) -> bool {
        self.blocks.get(&key).is_some_and(|holders| holders.include(&lookup.active))
    }

    /// Records the end of those endpoints that do not hold the block behind `walked` blocks. Returns whether others are left.
    fn keep_holders(&self, key: u64, walked: usize, lookup: &mut Lookup) -> bool {
        let Some(holders) = self.blocks.get(&key) else {
            lookup.end(walked);
            return false;
        };
        let any = holders.intersect(&lookup.active, &mut lookup.kept);
        record(&lookup.active, &lookup.kept, walked, &mut lookup.matched);
        std::mem::swap(&mut lookup.active, &mut lookup.kept);
        any
    }
}

/// Removes the block that the endpoint used least recently. Returns whether there was one.
fn evict_oldest(cache: &mut Cache, blocks: &mut foldhash::HashMap<u64, Holders>, slot: Slot) -> bool {
    let Some(key) = cache.lru.pop_oldest() else { return false };
    if let Some(holders) = blocks.get_mut(&key)
        && !holders.remove(slot)
    {
        blocks.remove(&key);
    }
    true
}

fn endpoint(endpoints: &mut Vec<Cache>, slot: Slot) -> &mut Cache {
    let index = slot as usize;
    if endpoints.len() <= index {
        endpoints.resize_with(index + 1, Cache::default);
    }
    &mut endpoints[index]
}

/// The endpoints in `active` that are not in `kept` hold `walked` blocks.
fn record(active: &[u64], kept: &[u64], walked: usize, matched: &mut [u32]) {
    let walked = u32::try_from(walked).unwrap_or(u32::MAX);
    if walked == 0 {
        return;
    }
    for (word, (active, kept)) in active.iter().zip(kept).enumerate() {
        let mut ended = active & !kept;
        while ended != 0 {
            let slot = word * u64::BITS as usize + ended.trailing_zeros() as usize;
            if let Some(matched) = matched.get_mut(slot) {
                *matched = walked;
            }
            ended &= ended - 1;
        }
    }
}

#[cfg(test)]
mod tests;
