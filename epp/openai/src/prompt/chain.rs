use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Length of a block of canonical bytes: about 64 tokens of English text.
pub const PROMPT_BLOCK_BYTES: usize = 256;

/// Maximum number of block hashes of a member: 4 MiB of prompt. Bytes behind them are counted, but not hashed.
pub const MAX_PROMPT_BLOCKS: usize = 16_384;

type Block = [u8; PROMPT_BLOCK_BYTES];

/// The block hashes of one member.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    hashes: Vec<u64>,
    /// The last hash, or the initial seed.
    last: u64,
    /// The bytes behind the last whole block.
    tail: Block,
    tail_bytes: usize,
    bytes: u64,
    pub(super) media_items: u32,
    pub(super) media_bytes: u64,
}

impl Chain {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            hashes: Vec::new(),
            last: seed,
            tail: [0; PROMPT_BLOCK_BYTES],
            tail_bytes: 0,
            bytes: 0,
            media_items: 0,
            media_bytes: 0,
        }
    }

    /// Appends canonical bytes. Blocks that lie in `bytes` are not copied.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.hashes.len() == MAX_PROMPT_BLOCKS {
            return;
        }
        let bytes = if self.tail_bytes > 0 { self.fill_tail(bytes) } else { bytes };
        let (blocks, rest) = bytes.as_chunks::<PROMPT_BLOCK_BYTES>();
        for block in &blocks[..blocks.len().min(MAX_PROMPT_BLOCKS - self.hashes.len())] {
            self.push_block(block);
        }
        if self.hashes.len() < MAX_PROMPT_BLOCKS && !rest.is_empty() {
            self.tail[..rest.len()].copy_from_slice(rest);
            self.tail_bytes = rest.len();
        }
    }

    /// Completes the block in `tail`. Returns the bytes that are left, which are empty if the block is still incomplete.
    fn fill_tail<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let missing = PROMPT_BLOCK_BYTES - self.tail_bytes;
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.tail[self.tail_bytes..][..taken.len()].copy_from_slice(taken);
        self.tail_bytes += taken.len();
        if self.tail_bytes == PROMPT_BLOCK_BYTES {
            self.tail_bytes = 0;
            let block = self.tail;
            self.push_block(&block);
        }
        rest
    }

    #[inline]
    fn push_block(&mut self, block: &Block) {
        // A seed for the whole block would cost as much as the block: it makes a secret of its own. And so blocks do not wait
        // for the hash before them.
        self.last = seeded_block(self.last, xxh3_64(block));
        self.hashes.push(self.last);
    }

    pub(super) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Canonical bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hash of all bytes so far, with the incomplete block.
    pub(super) fn digest(&self) -> u64 {
        xxh3_64_with_seed(&self.tail[..self.tail_bytes], self.last)
    }
}

/// The seed of a model (or adapter) and the `cache_salt` of the request. An engine shares its cache only between requests
/// that agree in both.
pub fn prompt_seed(model_or_adapter: &str, cache_salt: Option<&[u8]>) -> u64 {
    // One hash is the seed of the other, so no two pairs are the same sequence of bytes.
    let model = xxh3_64_with_seed(model_or_adapter.as_bytes(), 0);
    cache_salt.map_or(model, |salt| xxh3_64_with_seed(salt, model))
}

/// The hash of a block under a seed: of a model, a context, or both.
#[inline]
pub fn seeded_block(seed: u64, block: u64) -> u64 {
    xxh3_64_with_seed(&block.to_le_bytes(), seed)
}
