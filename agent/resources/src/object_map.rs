//! All objects of one kind.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Deref,
    sync::Arc,
};

use crate::key::ObjectKey;

type Inner<T> = BTreeMap<ObjectKey, Arc<T>>;

/// Objects by key. A clone shares the map: consecutive snapshots have the same map until an object of the kind changes.
#[derive(Debug)]
pub struct ObjectMap<T>(Arc<Inner<T>>);

impl<T> ObjectMap<T> {
    /// Whether both share one map, so that nothing has changed between them.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Objects of a namespace, sorted by name.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&ObjectKey, &Arc<T>)> {
        self.0.range(ObjectKey::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace)
    }

    /// For providers. Other clones are not changed.
    pub fn insert(&mut self, key: ObjectKey, object: Arc<T>) {
        Arc::make_mut(&mut self.0).insert(key, object);
    }

    /// For providers. Returns whether the object existed.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        // Checked first, because `make_mut` may copy the map.
        self.0.contains_key(key) && Arc::make_mut(&mut self.0).remove(key).is_some()
    }

    /// Adds all objects of `other`, or becomes it.
    pub(super) fn merge(&mut self, other: &Self, replace_all: bool) {
        if replace_all {
            self.clone_from(other);
        } else {
            Arc::make_mut(&mut self.0)
                .extend(other.0.iter().map(|(key, object)| (key.clone(), Arc::clone(object))));
        }
    }
}

impl<T: PartialEq> ObjectMap<T> {
    /// Becomes `next`, keeping the allocation of equal objects. Returns whether anything has changed.
    pub(super) fn replace(&mut self, mut next: Self) -> bool {
        let mut is_same = self.len() == next.len();
        for (key, object) in Arc::make_mut(&mut next.0) {
            match self.0.get(key) {
                Some(known) if known == object => *object = Arc::clone(known),
                _ => is_same = false,
            }
        }
        if !is_same {
            *self = next;
        }
        !is_same
    }
}

impl<T> Clone for ObjectMap<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for ObjectMap<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Deref for ObjectMap<T> {
    type Target = Inner<T>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> FromIterator<(ObjectKey, Arc<T>)> for ObjectMap<T> {
    fn from_iter<I: IntoIterator<Item = (ObjectKey, Arc<T>)>>(objects: I) -> Self {
        Self(Arc::new(objects.into_iter().collect()))
    }
}

impl<'a, T> IntoIterator for &'a ObjectMap<T> {
    type Item = (&'a ObjectKey, &'a Arc<T>);
    type IntoIter = btree_map::Iter<'a, ObjectKey, Arc<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_map_until_one_changes() {
        let map: ObjectMap<u8> = [(ObjectKey::new("a", "x"), Arc::new(1))].into_iter().collect();
        let mut other = map.clone();
        assert!(map.is_same(&other));
        other.insert(ObjectKey::new("a", "y"), Arc::new(2));
        assert!(!map.is_same(&other));
        assert_eq!((map.len(), other.len()), (1, 2));
    }

    #[test]
    fn lists_objects_of_namespace_only() {
        let names = [("a", "z"), ("b", "x"), ("b", "y"), ("b-1", "w"), ("c", "v")];
        let map: ObjectMap<()> =
            names.iter().map(|(namespace, name)| (ObjectKey::new(*namespace, *name), Arc::new(()))).collect();
        let of_b: Vec<String> = map.in_namespace("b").map(|(key, _)| key.to_string()).collect();
        assert_eq!(of_b, ["b/x", "b/y"]);
        assert_eq!(map.in_namespace("none").count(), 0);
    }
}
