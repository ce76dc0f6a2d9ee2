//! The pipelines of the pools of a process.

use std::{fmt, sync::Arc};

use super::Pipeline;

/// Makes the pipeline of each pool. Plugins keep state of sessions and endpoints, so pools do not share one.
#[derive(Clone)]
pub struct Pipelines(Arc<dyn Fn() -> Arc<Pipeline> + Send + Sync>);

impl Pipelines {
    /// `make` is called for each pool.
    pub fn new(make: impl Fn() -> Arc<Pipeline> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// The pipeline of a new pool.
    pub fn for_pool(&self) -> Arc<Pipeline> {
        (self.0)()
    }
}

impl fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipelines").finish_non_exhaustive()
    }
}

/// The default policy.
impl Default for Pipelines {
    fn default() -> Self {
        Self::new(Arc::default)
    }
}

/// One pipeline, for a process with one pool.
impl From<Arc<Pipeline>> for Pipelines {
    fn from(only: Arc<Pipeline>) -> Self {
        Self::new(move || Arc::clone(&only))
    }
}
