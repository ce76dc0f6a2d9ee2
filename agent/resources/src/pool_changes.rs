//! Which pools a new snapshot changes.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::{index::PoolMembers, key::ObjectKey, membership::Addresses, snapshot::Snapshot};

/// Compares each snapshot with the one before, so that a reader of many pools updates only those that changed.
#[derive(Default)]
pub struct PoolChanges {
    before: Option<(Arc<PoolMembers>, Arc<Addresses>)>,
}

impl std::fmt::Debug for PoolChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolChanges").finish_non_exhaustive()
    }
}

impl PoolChanges {
    /// Pools that are new, gone, or whose object, pods or [endpoints](Snapshot::pool_endpoints) may differ from the snapshot
    /// of the call before. The first call returns all pools.
    pub fn next(&mut self, snapshot: &Snapshot) -> BTreeSet<ObjectKey> {
        let now = (snapshot.pool_members(), snapshot.addresses());
        let changed = match &self.before {
            None => snapshot.inference_pools.keys().cloned().collect(),
            Some((members, addresses)) if Arc::ptr_eq(members, &now.0) && Arc::ptr_eq(addresses, &now.1) => {
                BTreeSet::new()
            }
            Some(before) => changed(before, &now),
        };
        self.before = Some(now);
        changed
    }
}

fn changed(
    (old, old_addresses): &(Arc<PoolMembers>, Arc<Addresses>),
    (new, new_addresses): &(Arc<PoolMembers>, Arc<Addresses>),
) -> BTreeSet<ObjectKey> {
    let gone = old.pools().keys().filter(|key| !new.pools().contains_key(*key));
    let differs = |key: &ObjectKey| {
        let is_same_object = match (old.pools().get(key), new.pools().get(key)) {
            (Some(old), Some(new)) => is_same(old, new),
            _ => false,
        };
        // A pod outside the pool may have taken the address of one inside.
        let is_same_pod = |old: &Arc<Pod>, new: &Arc<Pod>| {
            is_same(old, new) && old_addresses.other_holder(old) == new_addresses.other_holder(new)
        };
        let (old, new) = (old.of(key), new.of(key));
        !is_same_object
            || old.len() != new.len()
            || !old.iter().zip(new).all(|(old, new)| is_same_pod(&old.1, &new.1))
    };
    new.pools().keys().filter(|key| differs(key)).chain(gone).cloned().collect()
}

/// A folder that is read again has equal objects in new allocations.
fn is_same<T: PartialEq>(old: &Arc<T>, new: &Arc<T>) -> bool {
    Arc::ptr_eq(old, new) || old == new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const POOLS: &str = "
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: a, namespace: n }
spec: { selector: { matchLabels: { app: a } }, targetPorts: [{ number: 8000 }] }
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: { name: b, namespace: n }
spec: { selector: { matchLabels: { app: b } }, targetPorts: [{ number: 8000 }] }
";

    fn pod(name: &str, app: &str, ip: &str, created: u32) -> String {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: n, labels: {{ app: {app} }}, creationTimestamp: 2026-01-01T00:00:{created:02}Z }}
spec: {{ containers: [] }}
status: {{ podIP: {ip}, conditions: [{{ type: Ready, status: 'True' }}] }}
"
        )
    }

    /// The pools that differ after each of the manifests.
    async fn changes(manifests: &[String]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.yaml");
        std::fs::write(&file, &manifests[0]).unwrap();
        let store = Store::new();
        let _provider = crate::folder::start(folder.path(), store.clone()).await.unwrap();
        let mut generations = store.subscribe();
        let mut changes = PoolChanges::default();
        let mut all = Vec::new();
        for (index, text) in manifests.iter().enumerate() {
            if index > 0 {
                let hidden = folder.path().join(".all");
                std::fs::write(&hidden, text).unwrap();
                std::fs::rename(hidden, &file).unwrap();
                generations.changed().await.unwrap();
            }
            generations.mark_unchanged();
            let names: Vec<String> =
                changes.next(&store.snapshot()).into_iter().map(|key| key.name).collect();
            all.push(names.join(" "));
        }
        all
    }

    #[tokio::test]
    async fn names_only_pools_that_differ() {
        let (one, two) = (pod("a-1", "a", "10.0.0.1", 1), pod("b-1", "b", "10.0.0.2", 1));
        let all = changes(&[
            POOLS.to_owned() + &one + &two,
            // A pod of no pool.
            POOLS.to_owned() + &one + &two + &pod("c", "c", "10.0.0.3", 1),
            // A pod of a pool.
            POOLS.to_owned() + &one + &two + &pod("b-2", "b", "10.0.0.4", 1),
            // A newer pod of no pool has the address of one of a pool.
            POOLS.to_owned() + &one + &two + &pod("b-2", "b", "10.0.0.4", 1) + &pod("c", "c", "10.0.0.1", 2),
            // A spec.
            POOLS.replacen("8000", "8001", 1)
                + &one
                + &two
                + &pod("b-2", "b", "10.0.0.4", 1)
                + &pod("c", "c", "10.0.0.1", 2),
            // A pool is gone.
            POOLS.split("---").next().unwrap().replace("8000", "8001") + &one,
        ])
        .await;
        assert_eq!(all, ["a b", "", "b", "a", "a", "a b"]);
    }
}
