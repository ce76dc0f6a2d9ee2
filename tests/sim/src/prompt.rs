//! Tokens of a prompt: four bytes each. Unlike a tokenizer, but equal text prefixes have equal token prefixes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use forebay_routing_sim::UNIT_TOKENS;

const BYTES_PER_TOKEN: usize = 4;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) tokens: u32,
    /// Chained hashes of the blocks.
    pub(crate) blocks: Vec<u64>,
}

impl Prompt {
    /// In full blocks of this many tokens.
    pub(crate) fn new(text: &str, block_size: u32) -> Self {
        let blocks = text.as_bytes().chunks_exact(BYTES_PER_TOKEN * block_size.max(1) as usize);
        Self { tokens: tokens(text), blocks: chained(blocks) }
    }

    /// In units of [`UNIT_TOKENS`], the last of which may be shorter.
    pub(crate) fn in_units(text: &str) -> Self {
        let units = text.as_bytes().chunks(BYTES_PER_TOKEN * UNIT_TOKENS as usize);
        Self { tokens: tokens(text), blocks: chained(units) }
    }
}

fn tokens(text: &str) -> u32 {
    text.len().div_ceil(BYTES_PER_TOKEN).max(1) as u32
}

fn chained<'a>(blocks: impl Iterator<Item = &'a [u8]>) -> Vec<u64> {
    let mut hasher = DefaultHasher::new();
    let hash = |block: &[u8]| {
        block.hash(&mut hasher);
        hasher.finish()
    };
    blocks.map(hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_prefixes_share_blocks() {
        let (a, b) = (Prompt::new("aaaabbbbccccdd", 1), Prompt::new("aaaaxxxxcccc", 1));
        assert_eq!((a.tokens, a.blocks.len()), (4, 3));
        assert_eq!(a.blocks[0], b.blocks[0]);
        assert_ne!(a.blocks[2], b.blocks[2]);
    }
}
