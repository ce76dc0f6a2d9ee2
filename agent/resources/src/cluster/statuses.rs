//! Statuses of objects, kept apart from the objects: writing a status must not look like a change of the object.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tokio::sync::watch;

use crate::{Kind, ObjectKey, ObjectMap};

/// The status of an object in the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectStatus {
    /// `metadata.uid`. An object of the same name that was created again has another one.
    pub uid: String,
    /// `metadata.resourceVersion`, for conditional writes.
    pub resource_version: String,
    /// `metadata.generation`, for `observedGeneration`.
    pub generation: i64,
    /// `null` without a value.
    pub status: Value,
}

/// Statuses of all cached objects, valid or not, by kind.
#[derive(Clone, Debug, Default)]
pub struct Statuses(pub(super) BTreeMap<Kind, ObjectMap<ObjectStatus>>);

impl Statuses {
    /// The status of one object; `None` if it does not exist.
    pub fn get(&self, kind: Kind, key: &ObjectKey) -> Option<&Arc<ObjectStatus>> {
        self.0.get(&kind)?.get(key)
    }

    /// All statuses of a kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Arc<ObjectStatus>)> {
        self.0.get(&kind).into_iter().flatten()
    }
}

#[derive(Debug, Default)]
pub(super) struct StatusStore(watch::Sender<Arc<Statuses>>);

impl StatusStore {
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Statuses>> {
        self.0.subscribe()
    }

    pub(super) fn replace(&self, statuses: Statuses) {
        self.0.send_replace(Arc::new(statuses));
    }
}
