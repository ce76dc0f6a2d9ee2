//! Mutual TLS between Forebay's components.
//!
//! A certificate names its component: [`AGENT_NAME`], [`GATEWAY_NAME`], [`CLI_NAME`], or [`PICKER_NAME`] with the namespace
//! of the pool as another label. Both sides check that the other's certificate is of a trusted authority and has an expected
//! name. Names stand for addresses, because pod addresses change. Changed files are read again, so that certificates and
//! authorities can be renewed without a restart.

mod clients;
mod identity;
mod stream;

pub use self::{
    clients::ClientName,
    identity::{Error, Files, Identity, Texts, trusting},
    stream::{Stream, connect},
};

/// DNS subject alternative name in the agents' certificates.
pub const AGENT_NAME: &str = "forebay-agent";
/// DNS subject alternative name in the gateways' certificates.
pub const GATEWAY_NAME: &str = "forebay-gateway";
/// DNS subject alternative name in the certificate of the command line.
pub const CLI_NAME: &str = "forebay-cli";
/// First label of the DNS subject alternative name in the endpoint pickers' certificates: `forebay-epp.NAMESPACE`.
pub const PICKER_NAME: &str = "forebay-epp";

/// DNS subject alternative name of the endpoint pickers of a namespace.
pub fn picker_name(namespace: &str) -> String {
    format!("{PICKER_NAME}.{namespace}")
}

#[cfg(test)]
mod tests;
