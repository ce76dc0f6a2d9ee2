//! The paged KV cache: blocks of running sequences, and cached prompt units that are evicted least recently used first.

use crate::hashing::IntMap;

const NONE: u32 = u32::MAX;

/// Index of a cached unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnitRef(u32);

#[derive(Debug)]
struct Unit {
    hash: u64,
    references: u32,
    blocks: u32,
    previous: u32,
    next: u32,
}

/// Every block is free, private to a sequence, or part of a cached unit. Units without references are in an LRU list.
#[derive(Debug)]
pub(super) struct Cache {
    by_hash: IntMap<u32>,
    units: Vec<Unit>,
    spare: Vec<u32>,
    oldest: u32,
    newest: u32,
    capacity: u32,
    free: u32,
    evictable: u32,
}

impl Cache {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            by_hash: IntMap::default(),
            units: Vec::new(),
            spare: Vec::new(),
            oldest: NONE,
            newest: NONE,
            capacity,
            free: capacity,
            evictable: 0,
        }
    }

    /// Blocks that can be allocated, if necessary after evictions.
    pub(super) fn available(&self) -> u32 {
        self.free + self.evictable
    }

    /// Share of blocks that running sequences use.
    pub(super) fn usage(&self) -> f64 {
        f64::from(self.capacity - self.available()) / f64::from(self.capacity.max(1))
    }

    pub(super) fn find(&self, hash: u64) -> Option<UnitRef> {
        self.by_hash.get(&hash).map(|&index| UnitRef(index))
    }

    /// True if no sequence uses the unit, so that a reference makes its blocks unavailable.
    pub(super) fn is_evictable(&self, unit: UnitRef) -> bool {
        self.units[unit.0 as usize].references == 0
    }

    pub(super) fn blocks(&self, unit: UnitRef) -> u32 {
        self.units[unit.0 as usize].blocks
    }

    pub(super) fn reference(&mut self, unit: UnitRef) {
        if self.is_evictable(unit) {
            self.unlink(unit.0);
            self.evictable -= self.units[unit.0 as usize].blocks;
        }
        self.units[unit.0 as usize].references += 1;
    }

    pub(super) fn release(&mut self, unit: UnitRef) {
        let entry = &mut self.units[unit.0 as usize];
        entry.references -= 1;
        if entry.references == 0 {
            self.evictable += entry.blocks;
            self.push_newest(unit.0);
        }
    }

    /// Adds a unit with one reference. The caller has checked that the blocks are available.
    pub(super) fn insert(&mut self, hash: u64, blocks: u32) -> UnitRef {
        self.take(blocks);
        let unit = Unit { hash, references: 1, blocks, previous: NONE, next: NONE };
        let index = match self.spare.pop() {
            Some(index) => {
                self.units[index as usize] = unit;
                index
            }
            None => {
                self.units.push(unit);
                self.units.len() as u32 - 1
            }
        };
        self.by_hash.insert(hash, index);
        UnitRef(index)
    }

    /// Allocates private blocks. The caller has checked that they are available.
    pub(super) fn take(&mut self, blocks: u32) {
        while self.free < blocks {
            self.evict_oldest();
        }
        self.free -= blocks;
    }

    pub(super) fn give(&mut self, blocks: u32) {
        self.free += blocks;
    }

    fn evict_oldest(&mut self) {
        let index = self.oldest;
        assert_ne!(index, NONE, "allocated more blocks than available");
        self.unlink(index);
        let unit = &self.units[index as usize];
        self.by_hash.remove(&unit.hash);
        self.evictable -= unit.blocks;
        self.free += unit.blocks;
        self.spare.push(index);
    }

    fn unlink(&mut self, index: u32) {
        let (previous, next) = (self.units[index as usize].previous, self.units[index as usize].next);
        match previous {
            NONE => self.oldest = next,
            previous => self.units[previous as usize].next = next,
        }
        match next {
            NONE => self.newest = previous,
            next => self.units[next as usize].previous = previous,
        }
    }

    fn push_newest(&mut self, index: u32) {
        self.units[index as usize].previous = self.newest;
        self.units[index as usize].next = NONE;
        match self.newest {
            NONE => self.oldest = index,
            newest => self.units[newest as usize].next = index,
        }
        self.newest = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicts_the_least_recently_released_unit_and_never_a_referenced_one() {
        let mut cache = Cache::new(12);
        let units = [1, 2, 3].map(|hash| cache.insert(hash, 4));
        assert_eq!(cache.available(), 0);
        cache.release(units[1]);
        cache.release(units[0]);
        cache.take(4);
        assert_eq!((cache.find(1), cache.find(2), cache.find(3)), (Some(units[0]), None, Some(units[2])));
        cache.reference(units[0]);
        assert_eq!(cache.available(), 0);
        cache.give(4);
        assert_eq!(cache.available(), 4);
    }
}
