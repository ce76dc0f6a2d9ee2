//! Request bodies while they are held: their frames, what is still to come, and what all of them together may take.

mod body;
mod budget;
#[cfg(test)]
mod tests;

pub use body::RestError;
pub(crate) use body::{Fate, HeldBody, Scan, UpstreamBody};
pub(crate) use budget::{Hold, HoldBudget};
