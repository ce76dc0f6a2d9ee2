//! Authentication by API keys, and what all methods have in common.

use super::keys::ApiKeys;
use super::location::CredentialLocation;

/// Which requests an authentication rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthenticationMode {
    /// Requests without a valid credential.
    Strict,
    /// Requests with an invalid credential.
    Optional,
    /// None: an invalid credential counts as none.
    Permissive,
}

impl AuthenticationMode {
    pub(crate) fn parse(mode: Option<&str>) -> Result<Self, String> {
        match mode {
            None | Some("Strict") => Ok(Self::Strict),
            Some("Optional") => Ok(Self::Optional),
            Some("Permissive") => Ok(Self::Permissive),
            Some(other) => Err(format!("the mode {other:?} is not supported")),
        }
    }
}

/// `traffic.apiKeyAuthentication` of a policy.
#[derive(Debug)]
pub struct Authentication {
    /// Which requests are rejected.
    pub mode: AuthenticationMode,
    /// Where requests have the key.
    pub location: CredentialLocation,
    /// The keys that are accepted.
    pub keys: ApiKeys,
}
