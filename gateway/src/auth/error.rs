//! Why a caller is rejected. The messages are the same whether or not the model exists.

use http::HeaderName;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("you did not provide an API key: send it in the header {header}{}", shown(.is_bearer))]
    NoKey { header: HeaderName, is_bearer: bool },
    #[error("the API key in the header {header} is not valid")]
    InvalidKey { header: HeaderName },
    #[error("the API key in the header {header} has expired")]
    ExpiredKey { header: HeaderName },
    #[error("there is more than one header {header}: send one API key")]
    SeveralKeys { header: HeaderName },
    #[error("you did not provide a token: send it in the header {header}{}", shown_token(.is_bearer))]
    NoToken { header: HeaderName, is_bearer: bool },
    /// Not why: that would help to make one that is.
    #[error("the token in the header {header} is not valid")]
    InvalidToken { header: HeaderName },
    #[error("the token in the header {header} has expired")]
    ExpiredToken { header: HeaderName },
    #[error("there is more than one header {header}: send one token")]
    SeveralTokens { header: HeaderName },
    #[error("the token cannot be verified now, because the keys of its issuer are not known yet")]
    TokenKeysUnavailable,
    #[error("this model does not exist, or you are not allowed to use it in this way")]
    Denied,
}

fn shown(is_bearer: &bool) -> &'static str {
    if *is_bearer { ", as `Bearer KEY`" } else { "" }
}

fn shown_token(is_bearer: &bool) -> &'static str {
    if *is_bearer { ", as `Bearer TOKEN`" } else { "" }
}
