//! Objects of one watch.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope},
};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use tokio::sync::Notify;

use super::{prune::prune, statuses::ObjectStatus};
use crate::{ObjectKey, ObjectMap, Problem, Snapshot, kind::Object};

/// An object of the API server: parsed, or why it is invalid. An invalid object does not fail the list that it is
/// part of.
pub(super) struct Received<T> {
    /// Name, namespace, uid, resource version and generation only.
    metadata: ObjectMeta,
    object: Result<Arc<T>, String>,
    status: Value,
}

impl<'de, T: Object> Deserialize<'de> for Received<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let text = |name: &str| Some(value.get("metadata")?.get(name)?.as_str()?.to_owned());
        let metadata = ObjectMeta {
            name: Some(text("name").ok_or_else(|| de::Error::custom("the object has no name"))?),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: value.pointer("/metadata/generation").and_then(Value::as_i64),
            ..ObjectMeta::default()
        };
        let status = prune(T::KIND, &mut value);
        Ok(Self { metadata, object: T::parse(&value).map(Arc::new), status })
    }
}

impl<T> Clone for Received<T> {
    fn clone(&self) -> Self {
        let Self { metadata, object, status } = self;
        Self { metadata: metadata.clone(), object: object.clone(), status: status.clone() }
    }
}

impl<T> fmt::Debug for Received<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl<T> Received<T> {
    fn key(&self) -> ObjectKey {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        ObjectKey { namespace: text(&self.metadata.namespace), name: text(&self.metadata.name) }
    }
}

impl<T: Object> Resource for Received<T> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Valid and invalid objects, and the statuses of both.
pub(super) struct Contents<T> {
    objects: ObjectMap<T>,
    invalid: BTreeMap<ObjectKey, String>,
    statuses: ObjectMap<ObjectStatus>,
}

impl<T> Default for Contents<T> {
    fn default() -> Self {
        Self { objects: ObjectMap::default(), invalid: BTreeMap::new(), statuses: ObjectMap::default() }
    }
}

/// What has changed since the last call of `take_changes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) objects: bool,
    pub(super) statuses: bool,
}

impl Changes {
    pub(super) fn any(self) -> bool {
        self.objects || self.statuses
    }

    pub(super) fn add(&mut self, other: Self) {
        self.objects |= other.objects;
        self.statuses |= other.statuses;
    }
}

impl<T: Object> Contents<T> {
    pub(super) fn put(&mut self, received: Received<T>, with_status: bool) -> Changes {
        let key = received.key();
        let mut changes = Changes::default();
        if with_status {
            let metadata = received.metadata;
            let status = ObjectStatus {
                uid: metadata.uid.unwrap_or_default(),
                resource_version: metadata.resource_version.unwrap_or_default(),
                generation: metadata.generation.unwrap_or_default(),
                status: received.status,
            };
            if self.statuses.get(&key).is_none_or(|known| **known != status) {
                self.statuses.insert(key.clone(), Arc::new(status));
                changes.statuses = true;
            }
        }
        match received.object {
            Ok(object) => {
                changes.objects = self.invalid.remove(&key).is_some();
                if self.objects.get(&key).is_none_or(|known| *known != object) {
                    self.objects.insert(key, object);
                    changes.objects = true;
                }
            }
            Err(reason) => {
                let was_valid = self.objects.remove(&key);
                changes.objects = was_valid | (self.invalid.get(&key) != Some(&reason));
                self.invalid.insert(key, reason);
            }
        }
        changes
    }

    fn remove(&mut self, key: &ObjectKey) -> Changes {
        Changes {
            objects: self.objects.remove(key) | self.invalid.remove(key).is_some(),
            statuses: self.statuses.remove(key),
        }
    }

    /// Becomes `next`. Objects that are equal in both keep their allocation.
    fn replace(&mut self, next: Self) -> Changes {
        let Self { objects, invalid, statuses } = next;
        let changes = Changes {
            objects: self.objects.replace(objects) | (self.invalid != invalid),
            statuses: self.statuses.replace(statuses),
        };
        self.invalid = invalid;
        changes
    }
}

struct State<T> {
    contents: Contents<T>,
    /// Listed at least once, or the kind is not installed.
    is_listed: bool,
    changes: Changes,
}

/// Written by one watch, read by the snapshot builder.
pub(super) struct Cache<T> {
    state: Mutex<State<T>>,
    with_statuses: bool,
    wake: Arc<Notify>,
}

impl<T: Object> Cache<T> {
    pub(super) fn new(with_statuses: bool, wake: Arc<Notify>) -> Self {
        let state = State { contents: Contents::default(), is_listed: false, changes: Changes::default() };
        Self { state: Mutex::new(state), with_statuses, wake }
    }

    pub(super) fn with_statuses(&self) -> bool {
        self.with_statuses
    }

    /// Replaces all objects.
    pub(super) fn listed(&self, contents: Contents<T>) {
        let mut state = self.lock();
        let mut changes = state.contents.replace(contents);
        // The first list is a change even if it is empty.
        changes.objects |= !state.is_listed;
        state.is_listed = true;
        self.note(state, changes);
    }

    pub(super) fn applied(&self, received: Received<T>) {
        let mut state = self.lock();
        let changes = state.contents.put(received, self.with_statuses);
        self.note(state, changes);
    }

    pub(super) fn deleted(&self, received: &Received<T>) {
        let mut state = self.lock();
        let changes = state.contents.remove(&received.key());
        self.note(state, changes);
    }

    pub(super) fn is_listed(&self) -> bool {
        self.lock().is_listed
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.contents.objects.is_empty() && state.contents.invalid.is_empty()
    }

    fn note(&self, mut state: MutexGuard<'_, State<T>>, changes: Changes) {
        if changes.any() {
            state.changes.add(changes);
            drop(state);
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`Cache`] of any kind.
pub(super) trait AnyCache: Send + Sync {
    fn is_listed(&self) -> bool;

    /// What has changed since the last call.
    fn take_changes(&self) -> Changes;

    /// Adds the objects to the map of their kind; replaces it if `is_first`.
    fn put_objects(&self, snapshot: &mut Snapshot, is_first: bool);

    fn put_statuses(&self, statuses: &mut ObjectMap<ObjectStatus>, is_first: bool);

    fn problems(&self) -> Vec<Problem>;
}

impl<T: Object> AnyCache for Cache<T> {
    fn is_listed(&self) -> bool {
        self.is_listed()
    }

    fn take_changes(&self) -> Changes {
        std::mem::take(&mut self.lock().changes)
    }

    fn put_objects(&self, snapshot: &mut Snapshot, is_first: bool) {
        T::of(snapshot).merge(&self.lock().contents.objects, is_first);
    }

    fn put_statuses(&self, statuses: &mut ObjectMap<ObjectStatus>, is_first: bool) {
        statuses.merge(&self.lock().contents.statuses, is_first);
    }

    fn problems(&self) -> Vec<Problem> {
        let state = self.lock();
        let problem = |(key, reason): (&ObjectKey, &String)| Problem {
            place: "cluster".into(),
            object: Some(format!("{} {key}", T::KIND.names().kind)),
            message: reason.clone(),
        };
        state.contents.invalid.iter().map(problem).collect()
    }
}
