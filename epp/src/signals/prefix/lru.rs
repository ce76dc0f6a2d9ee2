//! The blocks that one endpoint is believed to hold, and which is evicted next.

/// A tree in an array: constant time for all operations, and no allocation per block.
///
/// A prompt uses all of its blocks at once, so a block is used at least as recently as every block behind it. Only the last
/// block of a prompt is therefore linked into the list of recent use, and only blocks without a following block are
/// evicted. The result is the order of "least recently used, and of one prompt the last block first".
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
    /// [`UNLINKED`] if the node is not in the list.
    newer: u32,
    older: u32,
    /// The block before it.
    parent: u32,
    /// Blocks that follow it, and pins.
    children: u32,
}

/// No node.
const NONE: u32 = u32::MAX;
const UNLINKED: u32 = u32::MAX - 1;

impl Default for Lru {
    fn default() -> Self {
        Self { nodes: Vec::new(), newest: NONE, oldest: NONE, free: NONE, len: 0 }
    }
}

impl Lru {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a block that follows `parent`. It is pinned: not evicted until [`Lru::used`].
    pub(super) fn add(&mut self, key: u64, parent: Option<u32>) -> u32 {
        let parent = parent.unwrap_or(NONE);
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.children += 1;
        }
        self.len += 1;
        let added = Node { key, newer: UNLINKED, older: NONE, parent, children: 1 };
        match self.nodes.get_mut(self.free as usize) {
            Some(free) => {
                let node = std::mem::replace(&mut self.free, free.newer);
                *free = added;
                node
            }
            None => {
                // The constants are never nodes: an endpoint has far fewer blocks.
                let node = u32::try_from(self.nodes.len()).unwrap_or(UNLINKED - 1);
                self.nodes.push(added);
                node
            }
        }
    }

    /// The block is not evicted until [`Lru::used`] or [`Lru::unpin`].
    pub(super) fn pin(&mut self, node: u32) {
        self.nodes[node as usize].children += 1;
    }

    /// Ends a pin of a block that another block follows.
    pub(super) fn unpin(&mut self, node: u32) {
        self.nodes[node as usize].children -= 1;
    }

    /// Ends a pin: a prompt that ends with the block was used.
    pub(super) fn used(&mut self, node: u32) {
        self.unpin(node);
        if node != self.newest {
            self.unlink(node);
            self.link_as_newest(node);
        }
    }

    /// Removes the last block of the prompt that was used least recently. Returns its key.
    pub(super) fn pop_oldest(&mut self) -> Option<u64> {
        loop {
            let node = self.oldest;
            let Node { key, parent, children, .. } = *self.nodes.get(node as usize)?;
            self.unlink(node);
            // Blocks that follow it were used later. It comes back when they are gone.
            if children > 0 {
                continue;
            }
            self.nodes[node as usize].newer = self.free;
            self.free = node;
            self.len -= 1;
            if let Some(before) = self.nodes.get_mut(parent as usize) {
                before.children -= 1;
                // It was last used with the block behind it, so it is the oldest now.
                if before.children == 0 && before.newer == UNLINKED {
                    self.link_as_oldest(parent);
                }
            }
            return Some(key);
        }
    }

    fn link_as_newest(&mut self, node: u32) {
        let older = std::mem::replace(&mut self.newest, node);
        let linked = &mut self.nodes[node as usize];
        (linked.older, linked.newer) = (older, NONE);
        match self.nodes.get_mut(older as usize) {
            Some(second) => second.newer = node,
            None => self.oldest = node,
        }
    }

    fn link_as_oldest(&mut self, node: u32) {
        let newer = std::mem::replace(&mut self.oldest, node);
        let linked = &mut self.nodes[node as usize];
        (linked.older, linked.newer) = (NONE, newer);
        match self.nodes.get_mut(newer as usize) {
            Some(second) => second.older = node,
            None => self.newest = node,
        }
    }

    fn unlink(&mut self, node: u32) {
        let Node { newer, older, .. } = self.nodes[node as usize];
        if newer == UNLINKED {
            return;
        }
        match self.nodes.get_mut(newer as usize) {
            Some(next) => next.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(next) => next.newer = newer,
            None => self.oldest = newer,
        }
        self.nodes[node as usize].newer = UNLINKED;
    }
}
