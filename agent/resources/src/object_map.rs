//! All objects of one kind.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Deref,
    sync::Arc,
};

use super::ObjectKey;

type Inner<T> = BTreeMap<ObjectKey, Arc<T>>;

/// Objects by name. A clone costs nothing and shares everything: consecutive
/// snapshots have the same map as long as no object of its kind changes.
#[derive(Debug)]
pub struct ObjectMap<T>(Arc<Inner<T>>);

impl<T> ObjectMap<T> {
    /// Whether nothing can have changed between the two: they are one map.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The objects of one namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&ObjectKey, &Arc<T>)> {
        self.0.range(ObjectKey::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace)
    }

    /// For providers. Readers that hold the map as it was keep it.
    pub fn insert(&mut self, key: ObjectKey, object: Arc<T>) {
        Arc::make_mut(&mut self.0).insert(key, object);
    }

    /// For providers. False if it was not there.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        // Looked for first: a copy for nothing is a copy of everything.
        self.0.contains_key(key) && Arc::make_mut(&mut self.0).remove(key).is_some()
    }

    /// Takes all of `other`, or becomes it.
    pub(super) fn merge(&mut self, other: &Self, become_it: bool) {
        if become_it {
            self.clone_from(other);
        } else {
            Arc::make_mut(&mut self.0)
                .extend(other.0.iter().map(|(key, object)| (key.clone(), Arc::clone(object))));
        }
    }
}

impl<T: PartialEq> ObjectMap<T> {
    /// Becomes `next`, but with the objects that are equal in both as they were.
    /// False if all are, and then nothing changes.
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
    fn a_clone_is_the_same_map_until_one_of_them_changes() {
        let map: ObjectMap<u8> = [(ObjectKey::new("a", "x"), Arc::new(1))].into_iter().collect();
        let mut other = map.clone();
        assert!(map.is_same(&other));
        other.insert(ObjectKey::new("a", "y"), Arc::new(2));
        assert!(!map.is_same(&other));
        assert_eq!((map.len(), other.len()), (1, 2));
    }

    #[test]
    fn a_namespace_has_its_own_objects_only() {
        let names = [("a", "z"), ("b", "x"), ("b", "y"), ("b-1", "w"), ("c", "v")];
        let map: ObjectMap<()> =
            names.iter().map(|(namespace, name)| (ObjectKey::new(*namespace, *name), Arc::new(()))).collect();
        let of_b: Vec<String> = map.in_namespace("b").map(|(key, _)| key.to_string()).collect();
        assert_eq!(of_b, ["b/x", "b/y"]);
        assert_eq!(map.in_namespace("none").count(), 0);
    }
}
