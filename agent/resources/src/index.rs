//! Indexes over a snapshot: pods of each pool, EndpointSlices of each Service.
//!
//! Built once for all pools and Services: there may be hundreds of them over thousands of pods.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};

use crate::{key::ObjectKey, membership::Addresses, object_map::ObjectMap, types::InferencePool};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Built on first use, and again when the maps have changed. Clones of a snapshot share it.
#[derive(Default)]
pub(crate) struct Index {
    members: Memo<PoolMembers>,
    slices: Memo<ServiceSlices>,
    addresses: Memo<Addresses>,
}

impl Index {
    pub(crate) fn pool_members(
        &self,
        pods: &ObjectMap<Pod>,
        pools: &ObjectMap<InferencePool>,
    ) -> Arc<PoolMembers> {
        let is_current = |it: &PoolMembers| it.pods.is_same(pods) && it.pools.is_same(pools);
        self.members.get(is_current, || PoolMembers::new(pods, pools))
    }

    pub(crate) fn addresses(&self, pods: &ObjectMap<Pod>) -> Arc<Addresses> {
        self.addresses.get(|it| it.is_of(pods), || Addresses::new(pods))
    }

    pub(crate) fn service_slices(&self, slices: &ObjectMap<EndpointSlice>) -> Arc<ServiceSlices> {
        self.slices.get(|it| it.all.is_same(slices), || ServiceSlices::new(slices))
    }
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

/// Pods that the selector of each pool matches, ready or not, sorted by name.
pub(crate) struct PoolMembers {
    pods: ObjectMap<Pod>,
    pools: ObjectMap<InferencePool>,
    by_pool: HashMap<ObjectKey, Vec<(ObjectKey, Arc<Pod>)>>,
}

impl PoolMembers {
    pub(crate) fn of(&self, pool: &ObjectKey) -> &[(ObjectKey, Arc<Pod>)] {
        self.by_pool.get(pool).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn pools(&self) -> &ObjectMap<InferencePool> {
        &self.pools
    }

    fn new(all_pods: &ObjectMap<Pod>, all_pools: &ObjectMap<InferencePool>) -> Self {
        // Pools are indexed by their first label, so a pod is compared with few of them.
        let mut by_label = HashMap::<(&str, &str, &str), Vec<(&ObjectKey, &InferencePool)>>::new();
        for (key, pool) in all_pools {
            if let Some((name, value)) = pool.spec.selector.match_labels.first_key_value() {
                by_label.entry((&key.namespace, name, value)).or_default().push((key, pool));
            }
        }
        let mut by_pool = HashMap::<ObjectKey, Vec<(ObjectKey, Arc<Pod>)>>::new();
        for (key, pod) in all_pods {
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
        Self { pods: all_pods.clone(), pools: all_pools.clone(), by_pool }
    }
}

/// EndpointSlices of each Service.
pub(crate) struct ServiceSlices {
    all: ObjectMap<EndpointSlice>,
    by_service: HashMap<ObjectKey, Vec<Arc<EndpointSlice>>>,
}

impl ServiceSlices {
    pub(crate) fn of(&self, service: &ObjectKey) -> &[Arc<EndpointSlice>] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    fn new(all: &ObjectMap<EndpointSlice>) -> Self {
        let mut by_service = HashMap::<ObjectKey, Vec<Arc<EndpointSlice>>>::new();
        for (key, slice) in all {
            let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
            if let Some(service) = service {
                by_service
                    .entry(ObjectKey::new(&key.namespace, service))
                    .or_default()
                    .push(Arc::clone(slice));
            }
        }
        Self { all: all.clone(), by_service }
    }
}
