//! What is learned about endpoints: speeds, believed prefixes, failures.

mod failures;
mod line;
mod mean;
mod prefix;
mod speed;

pub(crate) use self::{
    failures::Failures,
    line::Prior,
    mean::Mean,
    prefix::{BLOCK_BYTES, IndexBudget, Lookup, PrefixIndex, Slot},
    speed::{DEFAULT_PREFILL, DEFAULT_TOKEN, PrefillSpeed, TokenCount, TokenSpeed, median},
};
