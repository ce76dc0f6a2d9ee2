//! Request bodies while they are held: their frames, what is still to come, and what all of them together may take.

mod body;
mod budget;

pub(crate) use body::{HeldBody, RestError, Scan, UpstreamBody};
pub(crate) use budget::{Hold, HoldBudget};
