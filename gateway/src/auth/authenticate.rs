//! Authentication by API keys and tokens.

use std::sync::Arc;

use forebay_routing::{
    ApiKey, Authentication, AuthenticationMode, Checks, Credential, CredentialLocation, Identity, Jwt,
    JwtAuthentication, TokenError,
};
use http::{HeaderMap, header};

use super::error::Error;
use super::tokens::Tokens;

/// The key and the token of the caller, by the last phase that knows one, and the certificate of its connection. Fails if a
/// phase rejects the request.
///
/// A request has to pass every method of a phase. A token that is accepted is not taken for a key: both may be in the same
/// header.
pub(crate) fn authenticate<'a>(
    checks: &Checks<'a>,
    headers: &HeaderMap,
    tokens: &Tokens<'a>,
) -> Result<Identity<'a>, Error> {
    let mut known = Identity { certificate: tokens.certificate.clone(), ..Identity::default() };
    for phase in &checks.phases {
        let mut used = None;
        if let Some(authentication) = phase.jwt
            && let Some(jwt) = identify_token(authentication, headers, tokens)?
        {
            known.jwt = Some(jwt);
            used = Some(&authentication.location);
        }
        if let Some(authentication) = phase.authentication {
            known.key = identify_key(authentication, headers, used)?.or(known.key);
        }
    }
    Ok(known)
}

/// Fails with the error of the first one if all reject the request.
pub(crate) fn authenticate_any<'a>(
    all: impl Iterator<Item = Checks<'a>>,
    headers: &HeaderMap,
    tokens: &Tokens<'a>,
) -> Result<(), Error> {
    let mut first = None;
    for checks in all {
        match authenticate(&checks, headers, tokens) {
            Ok(_) => return Ok(()),
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    first.map_or(Ok(()), Err)
}

/// Removes the headers that policies take keys and tokens from, also if they are not valid.
pub(crate) fn remove_credentials(checks: &Checks<'_>, headers: &mut HeaderMap) {
    for phase in &checks.phases {
        let of_key = phase.authentication.map(|it| &it.location);
        for location in of_key.into_iter().chain(phase.jwt.map(|it| &it.location)) {
            headers.remove(&location.header);
        }
    }
}

/// `used`: where the caller's token is.
fn identify_key<'a>(
    authentication: &'a Authentication,
    headers: &HeaderMap,
    used: Option<&CredentialLocation>,
) -> Result<Option<&'a Arc<ApiKey>>, Error> {
    let location = &authentication.location;
    let header = || location.header.clone();
    let credential = match used {
        Some(used) if used == location => Credential::Missing,
        _ => location.credential(headers),
    };
    let error = match credential {
        Credential::Given(key) => match authentication.keys.find(key) {
            Some(known) if known.is_valid() => return Ok(Some(known)),
            Some(_) => Error::ExpiredKey { header: header() },
            None => Error::InvalidKey { header: header() },
        },
        Credential::Ambiguous => Error::SeveralKeys { header: header() },
        Credential::Missing if authentication.mode == AuthenticationMode::Strict => {
            Error::NoKey { header: header(), is_bearer: location.header == header::AUTHORIZATION }
        }
        Credential::Missing => return Ok(None),
    };
    if authentication.mode == AuthenticationMode::Permissive { Ok(None) } else { Err(error) }
}

fn identify_token<'a>(
    authentication: &'a Arc<JwtAuthentication>,
    headers: &HeaderMap,
    tokens: &Tokens<'a>,
) -> Result<Option<Arc<Jwt>>, Error> {
    let location = &authentication.location;
    let header = || location.header.clone();
    let error = match location.credential(headers) {
        Credential::Given(token) => match tokens.verify(authentication, token) {
            Ok(jwt) => return Ok(Some(jwt)),
            Err(TokenError::Invalid) => Error::InvalidToken { header: header() },
            Err(TokenError::Expired) => Error::ExpiredToken { header: header() },
            Err(TokenError::KeysUnavailable) => Error::TokenKeysUnavailable,
        },
        Credential::Ambiguous => Error::SeveralTokens { header: header() },
        Credential::Missing if authentication.mode == AuthenticationMode::Strict => {
            Error::NoToken { header: header(), is_bearer: location.header == header::AUTHORIZATION }
        }
        Credential::Missing => return Ok(None),
    };
    if authentication.mode == AuthenticationMode::Permissive { Ok(None) } else { Err(error) }
}
