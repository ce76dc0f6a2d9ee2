//! Verification of tokens.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{AlgorithmFamily, Header, Validation, dangerous, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::super::authentication::AuthenticationMode;
use super::super::location::CredentialLocation;
use super::super::values::Document;
use super::keys::{JwtKeys, NotFound};
use super::remote::{RemoteJwks, RemoteKeys};

/// Maximum size of a token.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far the clock of an issuer may differ from ours, for `exp` and `nbf`.
const MAX_CLOCK_SKEW_SECONDS: u64 = 60;

/// `traffic.jwtAuthentication` of a policy.
#[derive(Debug)]
pub struct JwtAuthentication {
    /// Which requests are rejected.
    pub mode: AuthenticationMode,
    /// Where requests have the token.
    pub location: CredentialLocation,
    pub(crate) providers: Vec<JwtProvider>,
}

/// An issuer of tokens.
#[derive(Debug)]
pub(crate) struct JwtProvider {
    issuer: String,
    pub(crate) keys: JwksSource,
    /// By family of the key.
    validations: [(AlgorithmFamily, Validation); 3],
}

/// Where the keys of an issuer are.
#[derive(Debug)]
pub(crate) enum JwksSource {
    Inline(JwtKeys),
    Remote(Arc<RemoteJwks>),
}

/// What is known of a caller by its token, without the token.
#[derive(Debug)]
pub struct Jwt {
    /// `iss`
    pub issuer: String,
    /// `sub`
    pub subject: Option<String>,
    /// Variable `jwt` of expressions: the claims.
    pub(crate) variable: Document,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenError {
    /// It is malformed, its signature is wrong, or it is not for this gateway.
    Invalid,
    /// The keys of its issuer were never loaded.
    KeysUnavailable,
    /// It was valid.
    Expired,
}

impl JwtProvider {
    /// `audiences`: a token must be for one of them. Without any, tokens for any audience are accepted.
    pub(crate) fn new(issuer: String, audiences: &[String], keys: JwksSource) -> Self {
        let validation = |family| {
            let mut validation = Validation::new_for_family(family);
            validation.leeway = MAX_CLOCK_SKEW_SECONDS;
            validation.validate_nbf = true;
            validation.set_issuer(&[&issuer]);
            if audiences.is_empty() {
                validation.validate_aud = false;
                validation.set_required_spec_claims(&["exp", "iss"]);
            } else {
                validation.set_audience(audiences);
                validation.set_required_spec_claims(&["exp", "iss", "aud"]);
            }
            (family, validation)
        };
        let families = [AlgorithmFamily::Rsa, AlgorithmFamily::Ec, AlgorithmFamily::Ed];
        let validations = families.map(validation);
        Self { issuer, keys, validations }
    }

    fn verify(&self, token: &[u8], header: &Header, remote: &impl RemoteKeys) -> Result<Jwt, TokenError> {
        let loaded;
        let keys = match &self.keys {
            JwksSource::Inline(keys) => keys,
            JwksSource::Remote(jwks) => {
                loaded = remote.loaded(&jwks.id).ok_or(TokenError::KeysUnavailable)?;
                &*loaded
            }
        };
        let key = keys.find(header.kid.as_deref(), header.alg).map_err(|not_found| {
            if let (JwksSource::Remote(jwks), NotFound::UnknownId) = (&self.keys, not_found) {
                remote.refresh(&jwks.id);
            }
            TokenError::Invalid
        })?;
        let validation = self.validations.iter().find(|(family, _)| *family == key.decoding.family());
        let (_, validation) = validation.ok_or(TokenError::Invalid)?;
        let decoded = decode::<Map<String, Json>>(token, &key.decoding, validation);
        let mut claims = decoded.map_err(|error| TokenError::of(error.kind()))?.claims;
        let subject = claims.get("sub").and_then(Json::as_str).map(str::to_owned);
        let variable = Document::new(&Json::Object(std::mem::take(&mut claims)));
        Ok(Jwt { issuer: self.issuer.clone(), subject, variable })
    }
}

impl TokenError {
    /// Claims are read after the signature.
    fn of(error: &ErrorKind) -> Self {
        match error {
            ErrorKind::ExpiredSignature => Self::Expired,
            _ => Self::Invalid,
        }
    }
}

impl JwtAuthentication {
    /// Verifies a token by the keys of its issuer. Never waits for a server.
    pub fn verify(&self, token: &[u8], remote: &impl RemoteKeys) -> Result<Jwt, TokenError> {
        #[derive(Deserialize)]
        struct Claims {
            iss: String,
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        // No extension is understood (RFC 7515 §4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        // Only to find the keys. What is wrong here fails later.
        let claims: Claims = dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Invalid)?;
        let mut failed = TokenError::Invalid;
        for provider in self.providers.iter().filter(|it| it.issuer == claims.iss) {
            match provider.verify(token, &header, remote) {
                Ok(jwt) => return Ok(jwt),
                Err(error) => failed = failed.max(error),
            }
        }
        Err(failed)
    }

    /// The key sets that are loaded from servers.
    pub(crate) fn remote(&self) -> impl Iterator<Item = &Arc<RemoteJwks>> {
        self.providers.iter().filter_map(|provider| match &provider.keys {
            JwksSource::Inline(_) => None,
            JwksSource::Remote(jwks) => Some(jwks),
        })
    }
}
