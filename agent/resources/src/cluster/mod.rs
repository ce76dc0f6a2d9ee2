//! Fills the store from the API server of a cluster, by watching it.
//!
//! Each program says with an [`Interest`] what it needs, and no other object is
//! asked for or kept. A kind whose CRD is not installed has no objects until it
//! is. While the API server is away, everything stays as it was.

mod builder;
mod cache;
mod client;
mod follow;
mod list;
mod outage;
mod rules;
mod selection;
mod slim;
mod statuses;

use std::sync::Arc;

use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use tokio_util::task::AbortOnDropHandle;

use self::{builder::Builder, statuses::StatusStore};
pub use self::{
    client::{Error, config, connect},
    list::{Listed, Listing},
    rules::{FOLLOW, Rule},
    selection::{Interest, Selection},
    statuses::{ObjectStatus, Statuses},
};
use super::{Kind, ObjectKey, Store};

/// For writing: objects of the kind, by its preferred name, in the key's namespace.
pub fn api(client: &Client, kind: Kind, key: &ObjectKey) -> Api<DynamicObject> {
    let names = kind.names();
    let name = GroupVersionKind::gvk(names.groups[0], names.versions[0], names.kind);
    let resource = ApiResource::from_gvk_with_plural(&name, names.plural);
    if names.is_namespaced {
        Api::namespaced_with(client.clone(), &key.namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

/// Keeps the store up to date until it is dropped.
pub struct ClusterProvider {
    client: Client,
    statuses: Arc<StatusStore>,
    _builder: AbortOnDropHandle<()>,
}

/// Returns at once: the store's first snapshot comes when everything that
/// `interest` asks for has been listed. Must be called in a tokio runtime.
pub fn start(client: Client, interest: Interest, store: Arc<Store>) -> ClusterProvider {
    let statuses = Arc::new(StatusStore::default());
    let builder = Builder::new(client.clone(), interest, store, Arc::clone(&statuses));
    ClusterProvider { client, statuses, _builder: AbortOnDropHandle::new(tokio::spawn(builder.run())) }
}

impl ClusterProvider {
    /// The client that it reads with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The statuses of the kinds that the interest names, as they change.
    pub fn statuses(&self) -> tokio::sync::watch::Receiver<Arc<Statuses>> {
        self.statuses.subscribe()
    }
}

impl std::fmt::Debug for ClusterProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterProvider").finish_non_exhaustive()
    }
}
