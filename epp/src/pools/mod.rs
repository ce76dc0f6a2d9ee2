//! The pools of a process.
//!
//! [`Pools`] follows the InferencePools of its [`PoolScope`]: each has a scheduler of its own, and all share the telemetry
//! streams. A change of one pool does not touch the others. [`Directory`] finds the pool that a gateway asks for.

mod directory;
mod follow;

pub use self::{
    directory::{Asked, Directory, ServedPool},
    follow::Pools,
};

use std::{collections::BTreeSet, fmt};

use forebay_resources::{ObjectKey, Snapshot};

/// The InferencePools that a process serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolScope {
    /// This one, whether it exists or not. Gateways need not say which pool they ask for.
    One(ObjectKey),
    /// All pools of these namespaces.
    Namespaces(BTreeSet<String>),
    /// All pools.
    All,
}

impl PoolScope {
    /// Whether the pool is served if it exists.
    pub fn has(&self, pool: &ObjectKey) -> bool {
        match self {
            Self::One(only) => only == pool,
            Self::Namespaces(namespaces) => namespaces.contains(&pool.namespace),
            Self::All => true,
        }
    }

    /// Whether the resources are loaded, and the pool exists if it is the only one.
    pub fn is_loaded(&self, snapshot: &Snapshot) -> bool {
        let exists = match self {
            Self::One(only) => snapshot.inference_pools.contains_key(only),
            Self::Namespaces(_) | Self::All => true,
        };
        snapshot.generation > 0 && exists
    }
}

impl From<ObjectKey> for PoolScope {
    fn from(pool: ObjectKey) -> Self {
        Self::One(pool)
    }
}

/// `InferencePool llm-d/qwen`, `the InferencePools of namespaces a, b`
impl fmt::Display for PoolScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(pool) => write!(f, "InferencePool {pool}"),
            Self::Namespaces(namespaces) => {
                let names: Vec<&str> = namespaces.iter().map(String::as_str).collect();
                let noun = if names.len() == 1 { "namespace" } else { "namespaces" };
                write!(f, "the InferencePools of {noun} {}", names.join(", "))
            }
            Self::All => f.write_str("the InferencePools of all namespaces"),
        }
    }
}
