//! Request bodies while they are held: their frames, what is still to come, and what all of them together may take.

mod body;
mod budget;
mod patience;
#[cfg(test)]
mod tests;

pub(crate) use body::{HeldBody, Scan, UpstreamBody};
pub(crate) use budget::{Hold, HoldBudget};
use patience::Patience;
