//! The gateways of an installation, by their pods.

use std::collections::{BTreeMap, BTreeSet};

use forebay_resources::{Snapshot, takes_requests};

use crate::config::Config;
use crate::limit::Share;

/// Which pods are gateways, and which of them is this one.
#[derive(Debug)]
pub(super) struct Replicas {
    namespace: String,
    /// Labels of the gateway pods.
    selector: BTreeMap<String, String>,
    /// Name of this pod.
    identity: String,
}

impl Replicas {
    pub(super) fn new(namespace: String, config: &Config) -> Self {
        Self { namespace, selector: config.pod_labels(), identity: config.identity() }
    }

    /// The share of this gateway among those that are ready, in the order of their names. This one counts also before it is
    /// ready: the others do not know it yet, and it gets no requests.
    pub(super) fn share(&self, snapshot: &Snapshot) -> Share {
        let is_gateway = |labels: &BTreeMap<String, String>| {
            self.selector.iter().all(|(name, value)| labels.get(name) == Some(value))
        };
        let pods = snapshot
            .pods
            .in_namespace(&self.namespace)
            .filter(|(_, pod)| pod.metadata.labels.as_ref().is_some_and(is_gateway) && takes_requests(pod));
        let mut names: BTreeSet<&str> = pods.map(|(key, _)| key.name.as_str()).collect();
        names.insert(&self.identity);
        let before = names.range(..self.identity.as_str()).count();
        Share::new(names.len() as u64, before as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_resources::ObjectKey;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn ready_pods_of_the_selector_are_gateways() {
        let pod = |app: &str, ready: &str, more: Value| {
            let mut pod = json!({
                "metadata": { "labels": { "app": app, "other": "x" } },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            });
            pod["metadata"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            pod
        };
        let mut snapshot = Snapshot::default();
        for (namespace, name, pod) in [
            ("forebay", "g-1", pod("gateway", "True", json!({}))),
            ("forebay", "g-2", pod("gateway", "False", json!({}))),
            (
                "forebay",
                "g-3",
                pod("gateway", "True", json!({ "deletionTimestamp": "2026-11-28T00:00:00Z" })),
            ),
            ("forebay", "g-4", pod("gateway", "True", json!({}))),
            ("forebay", "g-5", pod("agent", "True", json!({}))),
            ("other", "g-6", pod("gateway", "True", json!({}))),
        ] {
            let pod = serde_json::from_value(pod).unwrap();
            snapshot.pods.insert(ObjectKey::new(namespace, name), Arc::new(pod));
        }
        let share = |identity: &str| {
            let selector = BTreeMap::from([("app".to_owned(), "gateway".to_owned())]);
            Replicas { namespace: "forebay".into(), selector, identity: identity.into() }.share(&snapshot)
        };
        for (identity, expected) in [
            ("g-1", Share::new(2, 0)),
            ("g-4", Share::new(2, 1)),
            // They count themselves.
            ("g-2", Share::new(3, 1)),
            ("g-3", Share::new(3, 1)),
            ("g-9", Share::new(3, 2)),
        ] {
            assert_eq!(share(identity), expected, "{identity}");
        }
    }
}
