//! Fills the store from the API server of a cluster.
//!
//! Each program states with an [`Interest`] which objects it needs; no others are read. A kind whose CRD is not installed
//! has no objects. While the API server is unreachable, the last known objects stay.

mod builder;
mod cache;
mod client;
mod list;
mod outage;
mod prune;
mod rbac;
mod replaced;
mod selection;
mod statuses;
mod watch;

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
    rbac::{FOLLOW, Rule},
    replaced::replaced_objects,
    selection::{Interest, Selection},
    statuses::{ObjectStatus, Statuses},
};
use super::{Kind, ObjectKey, Store};

/// API for writing objects of the kind in the namespace of `key`, by its preferred group and version.
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

/// Keeps the store up to date until dropped.
pub struct ClusterProvider {
    client: Client,
    statuses: Arc<StatusStore>,
    _builder: AbortOnDropHandle<()>,
}

/// Starts the watches and returns. The store gets its first snapshot when all selections of `interest` have been listed.
///
/// Must be called in a tokio runtime.
pub fn start(client: Client, interest: Interest, store: Arc<Store>) -> ClusterProvider {
    let statuses = Arc::new(StatusStore::default());
    let builder = Builder::new(client.clone(), interest, store, Arc::clone(&statuses));
    ClusterProvider { client, statuses, _builder: AbortOnDropHandle::new(tokio::spawn(builder.run())) }
}

impl ClusterProvider {
    /// The client of the watches.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Statuses of the kinds of [`Interest::with_statuses`].
    pub fn statuses(&self) -> tokio::sync::watch::Receiver<Arc<Statuses>> {
        self.statuses.subscribe()
    }
}

impl std::fmt::Debug for ClusterProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterProvider").finish_non_exhaustive()
    }
}
