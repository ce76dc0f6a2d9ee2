//! One immutable snapshot of all objects, and the place where it is swapped.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    AgentgatewayPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass, HttpRoute, InferenceModelRewrite,
    InferenceObjective, InferencePool, Namespace, ObjectMap, Pod, ReferenceGrant, Secret, Service,
    index::Index,
};

/// Namespace and name; shown as `namespace/name`. The namespace of a
/// cluster-scoped object is empty, and it is shown as `name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// All objects as they were at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every change; 0 means that no provider has delivered yet.
    pub generation: u64,
    pub gateway_classes: ObjectMap<GatewayClass>,
    pub gateways: ObjectMap<Gateway>,
    pub http_routes: ObjectMap<HttpRoute>,
    pub reference_grants: ObjectMap<ReferenceGrant>,
    pub inference_pools: ObjectMap<InferencePool>,
    pub inference_objectives: ObjectMap<InferenceObjective>,
    pub inference_model_rewrites: ObjectMap<InferenceModelRewrite>,
    pub agentgateway_policies: ObjectMap<AgentgatewayPolicy>,
    pub pods: ObjectMap<Pod>,
    pub services: ObjectMap<Service>,
    pub endpoint_slices: ObjectMap<EndpointSlice>,
    pub config_maps: ObjectMap<ConfigMap>,
    pub secrets: ObjectMap<Secret>,
    /// For their labels: a listener may choose routes by those of their namespace.
    pub namespaces: ObjectMap<Namespace>,
    /// What could not be taken in; everything else is valid beside it.
    pub problems: Vec<Problem>,
    pub(super) index: Arc<Index>,
}

/// An object that was left out of the snapshot, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: `pool.yaml document 2 (line 14)`.
    pub place: String,
    /// What it is, as far as that could be read: `InferencePool llm-d/qwen`.
    pub object: Option<String>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{}: {object}: {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

/// Holds the newest [`Snapshot`]. Reading never waits for a writer.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    /// Only one writer at a time gives out generations.
    writer: Mutex<()>,
}

impl Store {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(Snapshot::default()),
            generation: watch::Sender::new(0),
            writer: Mutex::new(()),
        })
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The generation, as it changes. The snapshot is in place before the
    /// receiver wakes, so it is at least as new as the number.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Returns when a provider has delivered.
    pub async fn loaded(&self) {
        // The sender is here as long as this is.
        let _ = self.subscribe().wait_for(|generation| *generation > 0).await;
    }

    /// For providers: puts a whole new snapshot in place. Its generation is
    /// given by the store, whatever `next` says.
    pub fn replace(&self, mut next: Snapshot) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        next.generation = self.current.load().generation + 1;
        let generation = next.generation;
        self.current.store(Arc::new(next));
        self.generation.send_replace(generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_numbers_snapshots_and_wakes_subscribers() {
        let store = Store::new();
        let mut generations = store.subscribe();
        assert_eq!(store.snapshot().generation, 0);
        store.replace(Snapshot { generation: 77, ..Snapshot::default() });
        assert!(generations.has_changed().unwrap());
        assert_eq!(*generations.borrow_and_update(), 1);
        assert_eq!(store.snapshot().generation, 1);
    }

    #[test]
    fn keys_show_the_namespace_only_where_there_is_one() {
        assert_eq!(ObjectKey::new("llm-d", "qwen").to_string(), "llm-d/qwen");
        assert_eq!(ObjectKey::new("", "forebay").to_string(), "forebay");
    }
}
