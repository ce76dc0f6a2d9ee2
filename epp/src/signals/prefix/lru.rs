//! The blocks that one endpoint is believed to hold, in order of use.

/// A list in an array: constant time for all operations, and no allocation per block.
#[derive(Debug)]
pub(super) struct Lru {
    nodes: Vec<Node>,
    /// Most recently used.
    newest: u32,
    /// Least recently used.
    oldest: u32,
    /// First unused node.
    free: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    key: u64,
    newer: u32,
    older: u32,
}

/// No node.
const NONE: u32 = u32::MAX;

impl Default for Lru {
    fn default() -> Self {
        Self { nodes: Vec::new(), newest: NONE, oldest: NONE, free: NONE, len: 0 }
    }
}

impl Lru {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a block as the most recently used. Returns its node.
    pub(super) fn add(&mut self, key: u64) -> u32 {
        let node = match self.nodes.get(self.free as usize) {
            Some(free) => {
                let node = self.free;
                self.free = free.newer;
                node
            }
            None => {
                // `NONE` is never a node: an endpoint has far fewer blocks.
                let node = u32::try_from(self.nodes.len()).unwrap_or(NONE - 1);
                self.nodes.push(Node { key, newer: NONE, older: NONE });
                node
            }
        };
        self.nodes[node as usize].key = key;
        self.len += 1;
        self.link(node);
        node
    }

    /// The block was used.
    pub(super) fn touch(&mut self, node: u32) {
        if node != self.newest {
            self.unlink(node);
            self.link(node);
        }
    }

    /// Removes the least recently used block. Returns its key.
    pub(super) fn pop_oldest(&mut self) -> Option<u64> {
        let node = self.oldest;
        let key = self.nodes.get(node as usize)?.key;
        self.unlink(node);
        self.nodes[node as usize].newer = self.free;
        self.free = node;
        self.len -= 1;
        Some(key)
    }

    fn link(&mut self, node: u32) {
        let older = std::mem::replace(&mut self.newest, node);
        self.nodes[node as usize].older = older;
        self.nodes[node as usize].newer = NONE;
        match self.nodes.get_mut(older as usize) {
            Some(second) => second.newer = node,
            None => self.oldest = node,
        }
    }

    fn unlink(&mut self, node: u32) {
        let Node { newer, older, .. } = self.nodes[node as usize];
        match self.nodes.get_mut(newer as usize) {
            Some(next) => next.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(next) => next.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn evicts_in_the_order_of_use(steps in prop::collection::vec((0u8..3, any::<prop::sample::Index>()), 0..200)) {
            let mut lru = Lru::default();
            let mut model: VecDeque<(u64, u32)> = VecDeque::new();
            let mut next = 0;
            for (step, which) in steps {
                match step {
                    0 => {
                        model.push_back((next, lru.add(next)));
                        next += 1;
                    }
                    1 if !model.is_empty() => {
                        let used = model.remove(which.index(model.len())).unwrap();
                        lru.touch(used.1);
                        model.push_back(used);
                    }
                    _ => prop_assert_eq!(lru.pop_oldest(), model.pop_front().map(|(key, _)| key)),
                }
                prop_assert_eq!(lru.len(), model.len());
            }
        }
    }
}
