//! Authentication by JSON Web Tokens (RFC 7519).

mod crypto;
mod keys;
mod remote;
#[cfg(test)]
mod tests;
mod verify;

pub use self::keys::JwtKeys;
pub use self::remote::{JwksId, RemoteJwks, RemoteKeys};
pub(crate) use self::verify::{JwksSource, JwtProvider};
pub use self::verify::{Jwt, JwtAuthentication, TokenError};
