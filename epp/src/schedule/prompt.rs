//! The prompt of a request, as far as it was read.

use crate::signals::BLOCK_BYTES;

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

impl Prompt {
    /// Bytes of a block.
    pub const BLOCK_BYTES: u64 = BLOCK_BYTES;
}
