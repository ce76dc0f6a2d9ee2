//! Key sets of `jwtAuthentication` that are loaded from servers.
//!
//! A task per set loads it in the background: when the policy appears, after its `cacheDuration`, and when a token names a
//! key that the set does not have. Requests never wait for it. A set that cannot be loaded again stays as it was.

mod fetch;
mod loader;
mod registry;

pub(crate) use registry::{KeySetRegistry, KeySets};
