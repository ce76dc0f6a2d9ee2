//! Features of a request that are known from its JSON body alone, computed while the body streams: hashes of the prompt,
//! its size, and members that a scheduler needs.
//!
//! # Canonical bytes
//!
//! The bytes of a member's JSON value without whitespace between tokens. Strings and numbers are kept as they are written:
//! `"é"` and `"\u00e9"` differ, `1` and `1.0` differ. A client writes the same text in the same way, so nothing more is
//! resolved. Two kinds of strings are media and not text, and are replaced by 16 hexadecimal digits, the XXH3 of their
//! content:
//!
//! - A string that begins with `data:` (a data URL, RFC 2397).
//! - A string of base64 characters under the name `data`: `input_audio.data` of OpenAI, `source.data` of Anthropic. Its first
//!   64 bytes decide, a shorter string is text.
//!
//! # Chains
//!
//! The canonical bytes are cut into blocks of [`PROMPT_BLOCK_BYTES`]. `hash(i) = XXH3-64(XXH3-64(block(i)), seed =
//! hash(i - 1))`, the inner one as 8 bytes, little-endian, so equal hashes mean equal prefixes. The bytes behind the last whole
//! block are counted, but are not part of a block.
//!
//! A prompt has two sections, because a template puts some members before the messages whatever their order in the body:
//!
//! - *context*: tools, instructions and other members that change the head of the prompt ([`RequestKind`] lists them). Each
//!   has a chain of its own, which [`PromptScanner::context_blocks`] combines in a fixed order.
//! - *turns*: `messages`, `input` or `prompt`. The chain starts at zero. It does not depend on the context, which may follow
//!   in the body. An engine can reuse a prefix of the turns only after an equal context:
//!   [`PromptScanner::context_digest`] is the value to compare or to mix in.
//!
//! No hash depends on the model. [`prompt_seed`] and [`seeded_block`] bind a hash to a model and a cache salt.

mod canonical;
mod chain;
mod kind;
mod member;
mod scanner;
mod settings;

pub use chain::{MAX_PROMPT_BLOCKS, PROMPT_BLOCK_BYTES, prompt_seed, seeded_block};
pub use kind::RequestKind;
pub use scanner::PromptScanner;
pub use settings::MAX_CACHE_SALT_BYTES;

#[cfg(test)]
mod tests;
