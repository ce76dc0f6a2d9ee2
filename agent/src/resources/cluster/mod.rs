//! Fills the store from the API server of a cluster, by watching it.
//!
//! Each program says with an [`Interest`] what it needs, and no other object is
//! asked for or kept. A kind whose CRD is not installed has no objects until it
//! is. While the API server is away, everything stays as it was.

mod builder;
mod cache;
mod client;
mod follow;
mod outage;
mod rules;
mod selection;
mod slim;
mod statuses;

use std::sync::Arc;

use kube::Client;
use tokio_util::task::AbortOnDropHandle;

use self::{builder::Builder, statuses::StatusStore};
pub use self::{
    client::{Error, connect},
    rules::{FOLLOW, Rule},
    selection::{Interest, Selection},
    statuses::{ObjectStatus, Statuses},
};
use super::Store;

/// Keeps the store up to date until it is dropped.
#[derive(Debug)]
pub struct ClusterProvider {
    statuses: Arc<StatusStore>,
    _builder: AbortOnDropHandle<()>,
}

/// Returns at once: the store's first snapshot comes when everything that
/// `interest` asks for has been listed. Must be called in a tokio runtime.
pub fn start(client: Client, interest: Interest, store: Arc<Store>) -> ClusterProvider {
    let statuses = Arc::new(StatusStore::default());
    let builder = Builder::new(client, interest, store, Arc::clone(&statuses));
    ClusterProvider { statuses, _builder: AbortOnDropHandle::new(tokio::spawn(builder.run())) }
}

impl ClusterProvider {
    /// The statuses of the kinds that the interest names, as they change.
    pub fn statuses(&self) -> tokio::sync::watch::Receiver<Arc<Statuses>> {
        self.statuses.subscribe()
    }
}
