//! API keys, by hash.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::{HashMap, HashMapExt as _};
use sha2::{Digest as _, Sha256};

use super::values::Document;

/// SHA-256 of an API key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyHash([u8; 32]);

impl KeyHash {
    pub(crate) fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    pub(crate) fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// Not even the hash belongs into a log.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// What is known of an API key, without the key.
#[derive(Debug)]
pub struct ApiKey {
    /// Name of the entry in the Secret or ConfigMap.
    pub name: String,
    /// Variable `apiKey` of expressions: the members of `metadata`, and `name` unless `metadata` has one.
    pub(crate) variable: Document,
    /// From then on, the key is not accepted.
    pub(crate) expires_at: Option<SystemTime>,
}

impl ApiKey {
    /// `group` of the metadata, if it is a text.
    pub fn group(&self) -> Option<&str> {
        self.variable.text("group")
    }

    /// Whether the key is still accepted.
    pub fn is_valid(&self) -> bool {
        self.expires_at.is_none_or(|at| SystemTime::now() < at)
    }
}

/// The keys that a policy accepts. Only hashes are kept. A lookup hashes the key first, so its duration tells nothing
/// about how much of a key was guessed.
#[derive(Debug)]
pub struct ApiKeys(HashMap<KeyHash, Arc<ApiKey>>);

impl Default for ApiKeys {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl ApiKeys {
    /// The entry of the key.
    pub fn find(&self, key: &[u8]) -> Option<&Arc<ApiKey>> {
        self.0.get(&KeyHash::of(key))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All entries, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ApiKey> {
        self.0.values().map(|key| &**key)
    }

    /// Keeps the first entry of a key. Returns it if there is one.
    pub(crate) fn add(&mut self, hash: KeyHash, key: ApiKey) -> Option<&ApiKey> {
        use std::collections::hash_map::Entry;
        match self.0.entry(hash) {
            Entry::Occupied(known) => Some(&**known.into_mut()),
            Entry::Vacant(free) => {
                free.insert(Arc::new(key));
                None
            }
        }
    }
}
