//! The tokens of a request.

/// The tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUse {
    /// All tokens of the prompt.
    pub prompt: u64,
    /// Of these, the tokens that were in the engine's cache.
    pub cached: u64,
    /// Generated tokens.
    pub output: u64,
}
