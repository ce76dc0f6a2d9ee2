//! Mutual TLS between Forebay's own parts.
//!
//! All of them hold certificates of one authority. Whoever dials checks that the
//! other's certificate is of that authority and carries the name of its part
//! ([`AGENT_NAME`], [`PICKER_NAME`]): pods are dialled by address, and addresses come
//! and go. Files that change are read again, so that certificates can be renewed
//! without a restart.

mod identity;
mod stream;

pub use self::{
    identity::{Error, Files, Identity, Texts, trusting},
    stream::{Stream, accept, connect},
};

/// What the agents' certificates are for (DNS subject alternative name).
pub const AGENT_NAME: &str = "forebay-agent";
/// What the endpoint pickers' certificates are for.
pub const PICKER_NAME: &str = "forebay-epp";

#[cfg(test)]
mod tests;
