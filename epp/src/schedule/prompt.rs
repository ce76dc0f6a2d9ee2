//! The prompt of a request, as far as it was read.

use forebay_openai::{PROMPT_BLOCK_BYTES, PromptScanner, prompt_seed, seeded_block};

use crate::signals::BLOCK_BYTES;

/// Maximum size of a body and a prompt: 1 TiB. A client may claim any `Content-Length`, and sums of sizes must not overflow.
pub const MAX_BODY_BYTES: u64 = 1 << 40;

/// What the decision needs of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Blocks of [`Prompt::BLOCK_BYTES`] bytes: each the hash of the block and all blocks before it, with the model and the
    /// cache salt.
    pub blocks: Vec<u64>,
    /// Bytes of the whole prompt, estimated if it was not read to its end.
    pub bytes: u64,
    /// Bytes of the request's body.
    pub body_bytes: u64,
    /// The response is a stream, so its first byte shows the end of the prefill.
    pub is_streamed: bool,
}

const _: () = assert!(PROMPT_BLOCK_BYTES as u64 == BLOCK_BYTES);

impl Prompt {
    /// Bytes of a block.
    pub const BLOCK_BYTES: u64 = BLOCK_BYTES;

    /// The prompt that `scanner` has read so far, for the model or adapter that the engine runs.
    ///
    /// The blocks of the context come first, then those of the turns. The keys of the turns do not contain the context, so
    /// they are the same before the context is known. An endpoint without the context loses the walk at its blocks.
    pub fn from_scanner(scanner: &PromptScanner, model: &str, body_bytes: u64) -> Self {
        let seed = prompt_seed(model, scanner.cache_salt());
        let blocks = scanner.context_blocks().chain(scanner.turn_blocks().iter().copied());
        Self {
            blocks: blocks.map(|block| seeded_block(seed, block)).collect(),
            bytes: scanner.prompt_bytes(),
            body_bytes,
            is_streamed: scanner.stream().unwrap_or(false),
        }
    }
}
