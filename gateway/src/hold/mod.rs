//! Request bodies while they are held: the frames that have arrived, the remainder, and the memory budget of all bodies.

mod body;
mod budget;
mod client_body;
mod error;
mod frames;
mod remainder;
mod size_hint;
mod upstream;

#[cfg(test)]
mod tests;

pub(crate) use body::HeldBody;
pub(crate) use budget::{Hold, HoldBudget};
pub(crate) use client_body::ClientBody;
pub(crate) use error::{Error, ReadError};
pub(crate) use remainder::{ModelScan, RestObserver};
pub(crate) use upstream::{UploadOutcome, UpstreamBody};
