//! The endpoints that are believed to hold one block.

use super::Slot;

/// Endpoints with their node in the endpoint's [`Lru`](super::lru::Lru).
#[derive(Debug)]
pub(super) enum Holders {
    /// Most blocks have one or two holders.
    Few { len: u8, holders: [(Slot, u32); FEW] },
    /// Shared system prompts have many. `bits`: one bit per slot. `nodes`: by slot, valid where the bit is set.
    Many { bits: Vec<u64>, nodes: Vec<u32>, len: u32 },
}

const FEW: usize = 4;

impl Holders {
    pub(super) fn one(slot: Slot, node: u32) -> Self {
        let mut holders = [(0, 0); FEW];
        holders[0] = (slot, node);
        Self::Few { len: 1, holders }
    }

    /// The node of the endpoint, if it holds the block.
    pub(super) fn node(&self, slot: Slot) -> Option<u32> {
        match self {
            Self::Few { len, holders } => {
                holders[..usize::from(*len)].iter().find(|(holder, _)| *holder == slot).map(|(_, node)| *node)
            }
            Self::Many { bits, nodes, .. } => {
                let (word, bit) = position(slot);
                let holds = bits.get(word).is_some_and(|bits| bits & bit != 0);
                holds.then(|| nodes[slot as usize])
            }
        }
    }

    /// Adds an endpoint that does not hold the block.
    pub(super) fn add(&mut self, slot: Slot, node: u32) {
        match self {
            Self::Few { len, holders } if usize::from(*len) < FEW => {
                holders[usize::from(*len)] = (slot, node);
                *len += 1;
            }
            Self::Few { holders, .. } => {
                let few = *holders;
                *self = Self::Many { bits: Vec::new(), nodes: Vec::new(), len: 0 };
                for (slot, node) in few {
                    self.add(slot, node);
                }
                self.add(slot, node);
            }
            Self::Many { bits, nodes, len } => {
                let (word, bit) = position(slot);
                if bits.len() <= word {
                    bits.resize(word + 1, 0);
                }
                if nodes.len() <= slot as usize {
                    nodes.resize(slot as usize + 1, 0);
                }
                bits[word] |= bit;
                nodes[slot as usize] = node;
                *len += 1;
            }
        }
    }

    /// Removes an endpoint that holds the block. Returns whether there are others.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        match self {
            Self::Few { len, holders } => {
                let used = &mut holders[..usize::from(*len)];
                if let Some(at) = used.iter().position(|(holder, _)| *holder == slot) {
                    let last = used.len() - 1;
                    used.swap(at, last);
                    *len -= 1;
                }
                *len > 0
            }
            Self::Many { bits, len, .. } => {
                let (word, bit) = position(slot);
                if let Some(bits) = bits.get_mut(word)
                    && *bits & bit != 0
                {
                    *bits &= !bit;
                    *len -= 1;
                }
                *len > 0
            }
        }
    }

    /// Whether all endpoints in `active` hold the block.
    pub(super) fn include(&self, active: &[u64]) -> bool {
        match self {
            Self::Few { len, holders } => {
                let holders = &holders[..usize::from(*len)];
                let bits = |word: usize| {
                    let here = holders.iter().map(|(slot, _)| position(*slot)).filter(|(at, _)| *at == word);
                    here.fold(0, |bits, (_, bit)| bits | bit)
                };
                active.iter().enumerate().all(|(word, active)| *active == 0 || active & !bits(word) == 0)
            }
            Self::Many { bits, .. } => active
                .iter()
                .enumerate()
                .all(|(word, active)| active & !bits.get(word).copied().unwrap_or(0) == 0),
        }
    }

    /// Keeps those bits of `active` whose endpoints hold the block, in `kept`. Returns whether there are any.
    pub(super) fn intersect(&self, active: &[u64], kept: &mut [u64]) -> bool {
        match self {
            Self::Few { len, holders } => {
                kept.fill(0);
                let mut any = false;
                for (slot, _) in &holders[..usize::from(*len)] {
                    let (word, bit) = position(*slot);
                    if active.get(word).is_some_and(|bits| bits & bit != 0) {
                        kept[word] |= bit;
                        any = true;
                    }
                }
                any
            }
            Self::Many { bits, .. } => {
                let mut any = 0;
                for (at, kept) in kept.iter_mut().enumerate() {
                    *kept = active[at] & bits.get(at).copied().unwrap_or(0);
                    any |= *kept;
                }
                any != 0
            }
        }
    }
}

/// Word and bit of a slot in a bit set.
pub(super) fn position(slot: Slot) -> (usize, u64) {
    ((slot / u64::BITS) as usize, 1 << (slot % u64::BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_map_of_slots(steps in prop::collection::vec((any::<bool>(), 0u32..130), 1..100)) {
            let mut holders = Holders::one(7, 1);
            let mut model = BTreeMap::from([(7, 1)]);
            for (node, (adds, slot)) in (2..).zip(steps) {
                if adds && !model.contains_key(&slot) {
                    holders.add(slot, node);
                    model.insert(slot, node);
                } else if !adds {
                    model.remove(&slot);
                    prop_assert_eq!(holders.remove(slot), !model.is_empty());
                }
                for slot in 0..130 {
                    prop_assert_eq!(holders.node(slot), model.get(&slot).copied());
                }
                let active = [u64::MAX, 0xff, 0];
                let mut kept = [0; 3];
                holders.intersect(&active, &mut kept);
                prop_assert_eq!(holders.include(&active), kept == active);
                prop_assert!(holders.include(&kept));
                let is_kept = |slot: u32| kept[position(slot).0] & position(slot).1 != 0;
                for slot in 0..130 {
                    prop_assert_eq!(is_kept(slot), slot < 72 && model.contains_key(&slot));
                }
            }
        }
    }
}
