//! What is known of the tokens and the certificate of one request.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_routing::{ClientCertificate, Jwt, JwtAuthentication, TokenError};

use crate::jwks::KeySets;

/// Verifies the tokens of a request, each once for each policy: a signature takes longer than all other checks, and the list
/// of models checks a request once for every model.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    key_sets: &'a KeySets,
    /// Of the connection.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    /// The lock is held for a few operations, never across an await.
    verified: Mutex<Vec<Verified<'a>>>,
}

type Verified<'a> = (&'a Arc<JwtAuthentication>, Result<Arc<Jwt>, TokenError>);

impl<'a> Tokens<'a> {
    pub(crate) fn new(key_sets: &'a KeySets, certificate: Option<Arc<ClientCertificate>>) -> Self {
        Self { key_sets, certificate, verified: Mutex::default() }
    }

    /// `token`: the one of the request for this policy.
    pub(super) fn verify(
        &self,
        authentication: &'a Arc<JwtAuthentication>,
        token: &[u8],
    ) -> Result<Arc<Jwt>, TokenError> {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = verified.iter().find(|(known, _)| Arc::ptr_eq(known, authentication)) {
            return known.clone();
        }
        let result = authentication.verify(token, self.key_sets).map(Arc::new);
        verified.push((authentication, result.clone()));
        result
    }
}
