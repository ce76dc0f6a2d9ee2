//! The statuses that the API server has, apart from the objects: a status that is
//! written must not look like a change of what it speaks of.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use tokio::sync::watch;

use crate::{Kind, ObjectKey, ObjectMap};

/// What the API server has as an object's status.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectStatus {
    /// Of the object: another one of the same name has another.
    pub uid: String,
    pub resource_version: String,
    /// `metadata.generation`, for `observedGeneration`.
    pub generation: i64,
    /// `null` when there is none.
    pub status: Value,
}

/// By kind, the statuses of all objects that are cached, readable or not.
#[derive(Clone, Debug, Default)]
pub struct Statuses(pub(super) BTreeMap<Kind, ObjectMap<ObjectStatus>>);

impl Statuses {
    pub fn get(&self, kind: Kind, key: &ObjectKey) -> Option<&Arc<ObjectStatus>> {
        self.0.get(&kind)?.get(key)
    }

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
