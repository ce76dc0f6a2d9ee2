//! Mutual TLS between Forebay's components.
//!
//! All components have certificates of one authority. A client checks that the server's certificate is of that authority
//! and has the name of the component ([`AGENT_NAME`], [`PICKER_NAME`]) instead of an address, because pod addresses
//! change. Changed files are read again, so that certificates can be renewed without a restart.

mod identity;
mod stream;

pub use self::{
    identity::{Error, Files, Identity, Texts, trusting},
    stream::{Stream, accept, connect},
};

/// DNS subject alternative name in the agents' certificates.
pub const AGENT_NAME: &str = "forebay-agent";
/// DNS subject alternative name in the endpoint pickers' certificates.
pub const PICKER_NAME: &str = "forebay-epp";

#[cfg(test)]
mod tests;
