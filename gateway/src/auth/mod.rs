//! Who may send a request: API keys, tokens and authorization rules of policies ([`forebay_routing::Checks`]).
//!
//! A request is authenticated when its listener is known, as far as its rule does not matter, and again when its rule is
//! known. It is authorized when its model is known, and again when another model is sent to the pod. The headers with keys
//! and tokens are removed before anything is sent.

mod authenticate;
mod authorize;
mod error;
mod tokens;

pub(crate) use authenticate::{authenticate, authenticate_any, remove_credentials};
pub(crate) use authorize::{Caller, authorize};
pub(crate) use error::Error;
pub(crate) use tokens::Tokens;
