//! Which pods each pool selects, and which slices each Service has: found once for
//! all, for there may be hundreds of pools and Services over thousands of pods.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{EndpointSlice, InferencePool, ObjectKey, ObjectMap, Pod, Snapshot};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Made when it is first asked for, and again when what it was made from is not the
/// same any more: all clones of a snapshot share one.
#[derive(Default)]
pub(super) struct Index {
    members: Memo<Members>,
    slices: Memo<Slices>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

struct Memo<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Memo<T> {
    fn get(&self, is_current: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if is_current(known) => Arc::clone(known),
            _ => Arc::clone(known.insert(Arc::new(make()))),
        }
    }
}

/// The pods that each pool's selector matches, Ready or not, in the order of their names.
pub(super) struct Members {
    pods: ObjectMap<Pod>,
    pools: ObjectMap<InferencePool>,
    by_pool: HashMap<ObjectKey, Vec<(ObjectKey, Arc<Pod>)>>,
}

impl Members {
    pub(super) fn of(&self, pool: &ObjectKey) -> &[(ObjectKey, Arc<Pod>)] {
        self.by_pool.get(pool).map_or(&[], Vec::as_slice)
    }

    fn new(snapshot: &Snapshot) -> Self {
        // A pod is looked at only by pools whose first label it has.
        let mut by_label = HashMap::<(&str, &str, &str), Vec<(&ObjectKey, &InferencePool)>>::new();
        for (key, pool) in &snapshot.inference_pools {
            if let Some((name, value)) = pool.spec.selector.match_labels.first_key_value() {
                by_label.entry((&key.namespace, name, value)).or_default().push((key, pool));
            }
        }
        let mut by_pool = HashMap::<ObjectKey, Vec<(ObjectKey, Arc<Pod>)>>::new();
        for (key, pod) in &snapshot.pods {
            let Some(labels) = &pod.metadata.labels else { continue };
            let pools = labels
                .iter()
                .filter_map(|(name, value)| {
                    by_label.get(&(key.namespace.as_str(), name.as_str(), value.as_str()))
                })
                .flatten();
            for (pool, object) in pools {
                if object.spec.selector.matches(labels) {
                    by_pool.entry((*pool).clone()).or_default().push((key.clone(), Arc::clone(pod)));
                }
            }
        }
        Self { pods: snapshot.pods.clone(), pools: snapshot.inference_pools.clone(), by_pool }
    }
}

/// The slices of each Service.
pub(super) struct Slices {
    all: ObjectMap<EndpointSlice>,
    by_service: HashMap<ObjectKey, Vec<Arc<EndpointSlice>>>,
}

impl Slices {
    pub(super) fn of(&self, service: &ObjectKey) -> &[Arc<EndpointSlice>] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    fn new(snapshot: &Snapshot) -> Self {
        let mut by_service = HashMap::<ObjectKey, Vec<Arc<EndpointSlice>>>::new();
        for (key, slice) in &snapshot.endpoint_slices {
            let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
            if let Some(service) = service {
                by_service
                    .entry(ObjectKey::new(&key.namespace, service))
                    .or_default()
                    .push(Arc::clone(slice));
            }
        }
        Self { all: snapshot.endpoint_slices.clone(), by_service }
    }
}

impl Snapshot {
    pub(super) fn members(&self) -> Arc<Members> {
        let is_current =
            |it: &Members| it.pods.is_same(&self.pods) && it.pools.is_same(&self.inference_pools);
        self.index.members.get(is_current, || Members::new(self))
    }

    pub(super) fn slices(&self) -> Arc<Slices> {
        self.index.slices.get(|it| it.all.is_same(&self.endpoint_slices), || Slices::new(self))
    }
}
