//! What the fuzz targets of all parts share.
//!
//! A target is a function of bytes that panics on a fault. libFuzzer calls it with mutated inputs (`cargo xtask fuzz`), and
//! an ordinary test calls it with the committed ones ([`replay`]).
#![warn(missing_docs)]

mod corpus;
mod split;

pub use corpus::replay;
pub use split::{pieces, seed};
