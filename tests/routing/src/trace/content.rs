use std::sync::Arc;

use crate::{
    hashing::mix,
    router::{BlockHash, UNIT_TOKENS},
};

/// Text as a sequence of pieces, and the chain of hashes of its units. Two contents that begin with the same pieces have
/// equal hashes up to the unit in which they differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    full: Vec<BlockHash>,
    /// Hash of the full units and of what is in the unfinished unit.
    chain: u64,
    tokens: u32,
}

impl Content {
    /// Appends `tokens` tokens of the piece `id`.
    pub fn append(&mut self, id: u64, tokens: u32) {
        let mut offset = 0;
        while offset < tokens {
            let part = (UNIT_TOKENS - self.tokens % UNIT_TOKENS).min(tokens - offset);
            self.chain = mix(mix(self.chain, id), u64::from(offset) << 32 | u64::from(part));
            self.tokens += part;
            offset += part;
            if self.tokens.is_multiple_of(UNIT_TOKENS) {
                self.full.push(BlockHash(self.chain));
            }
        }
    }

    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Hashes of all units, the last one partial.
    pub fn prompt(&self) -> Arc<[BlockHash]> {
        let partial = (!self.tokens.is_multiple_of(UNIT_TOKENS)).then_some(BlockHash(self.chain));
        self.full.iter().copied().chain(partial).collect()
    }

    /// Full units after the first `tokens` tokens.
    pub fn full_units_after(&self, tokens: u32) -> Arc<[BlockHash]> {
        self.full.get((tokens / UNIT_TOKENS) as usize..).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_beginnings_have_equal_units() {
        let mut one = Content::default();
        one.append(1, 100);
        let mut other = one.clone();
        one.append(2, 100);
        other.append(3, 100);
        let (first, second) = (one.prompt(), other.prompt());
        assert_eq!((first.len(), one.tokens()), (4, 200));
        assert_eq!(first[0], second[0]);
        assert_ne!(first[1], second[1], "the unit holds tokens 64..128");
        assert_ne!(first[3], second[3]);
        assert_eq!(one.full_units_after(100).as_ref(), &first[1..3]);
    }

    #[test]
    fn a_prompt_is_a_prefix_of_its_continuation_except_its_partial_unit() {
        let mut content = Content::default();
        content.append(7, 130);
        let before = content.prompt();
        content.append(8, 62);
        let after = content.prompt();
        assert_eq!(before[..2], after[..2]);
        assert_eq!((before.len(), after.len()), (3, 3));
        assert_ne!(before[2], after[2]);
    }
}
