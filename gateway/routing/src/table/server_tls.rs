//! TLS to servers that policies name.

use std::sync::Arc;

/// How the certificate of a server is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The authorities that are trusted.
    pub authorities: Authorities,
    /// Sent as the server name of the handshake (SNI).
    pub server_name: String,
    /// The certificate must have at least one of these names. Never empty.
    pub names: Vec<SubjectName>,
}

/// Trusted certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those of the system.
    System,
    /// Certificates in PEM.
    Pem(Arc<str>),
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// A DNS name. Wildcards of a certificate match.
    Dns(String),
    /// A URI, exactly.
    Uri(String),
}
