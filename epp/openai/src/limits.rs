//! Limits of request bodies.

/// Maximum nesting of a body. The scanner only counts levels; the limit protects the recursive parsers of the engines.
pub const MAX_DEPTH: u32 = 10_000;

/// Maximum length of a model name, in bytes after decoding.
pub const MAX_MODEL_NAME_BYTES: usize = 512;
