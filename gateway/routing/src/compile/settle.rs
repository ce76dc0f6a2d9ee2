//! Delays changes that refer to objects which have not arrived yet.
//!
//! Every kind has its own watch, so changes can arrive in a different order than they were written: a route before
//! the pool that it names, the deletion of a pool before the deletion of its route. Applied at once, the state in
//! between would answer requests with 500. Here a route with a missing backend keeps its previous version, and a
//! deleted backend that a route still names stays, for up to [`MAX_WATCH_SKEW`]. Other changes are not delayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_resources::{HttpRoute, ObjectKey, ObjectMap, Snapshot};
use tokio::time::Instant;

use super::reference::Reference;

/// Maximum skew between watches of different kinds. A busy API server delays events by some 100 ms.
const MAX_WATCH_SKEW: Duration = Duration::from_secs(1);

/// Turns snapshots into ones without references that are dangling only because of watch skew.
#[derive(Debug, Default)]
pub struct SnapshotSettler {
    /// The snapshot that was returned last.
    current: Option<Arc<Snapshot>>,
    /// New or changed routes with a missing backend, and since when. Their previous versions stay in use.
    early: BTreeMap<ObjectKey, Instant>,
    /// Deleted backends that a route still names, and since when. They stay in use.
    late: BTreeMap<DeletedBackend, Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DeletedBackend {
    Pool(ObjectKey),
    Service(ObjectKey),
}

/// A snapshot to use, and recheck_at when.
#[derive(Debug)]
pub struct Settled {
    /// The snapshot to compile.
    pub snapshot: Arc<Snapshot>,
    /// When to call [`SnapshotSettler::settle`] again, also without a newer snapshot.
    pub recheck_at: Option<Instant>,
}

impl SnapshotSettler {
    /// Returns `snapshot` with delayed changes left out. The first snapshot is returned unchanged.
    pub fn settle(&mut self, snapshot: Arc<Snapshot>, now: Instant) -> Settled {
        let settled = match self.current.take() {
            None => Settled { snapshot, recheck_at: None },
            Some(before) => self.after(&before, snapshot, now),
        };
        self.current = Some(Arc::clone(&settled.snapshot));
        settled
    }

    fn after(&mut self, before: &Snapshot, snapshot: Arc<Snapshot>, now: Instant) -> Settled {
        let early = early(before, &snapshot);
        let early = wait(&mut self.early, early, now);
        let routes = routes(before, &snapshot, &early);
        let late = late(before, &snapshot, &routes);
        let late = wait(&mut self.late, late, now);
        let recheck_at =
            self.early.values().chain(self.late.values()).min().map(|since| *since + MAX_WATCH_SKEW);
        if early.is_empty() && late.is_empty() {
            return Settled { snapshot, recheck_at };
        }
        let mut settled = Snapshot::clone(&snapshot);
        settled.http_routes = routes;
        for backend in late {
            match backend {
                DeletedBackend::Pool(key) => keep(&before.inference_pools, &mut settled.inference_pools, key),
                DeletedBackend::Service(key) => keep(&before.services, &mut settled.services, key),
            }
        }
        Settled { snapshot: Arc::new(settled), recheck_at }
    }
}

/// The items of `found` whose wait is not over. Updates `waiting`.
fn wait<K: Ord + Clone>(waiting: &mut BTreeMap<K, Instant>, found: BTreeSet<K>, now: Instant) -> BTreeSet<K> {
    let is_pending = |key: &K| *waiting.entry(key.clone()).or_insert(now) + MAX_WATCH_SKEW > now;
    let found: BTreeSet<K> = found.into_iter().filter(is_pending).collect();
    waiting.retain(|key, _| found.contains(key));
    found
}

/// New or changed routes with a missing backend.
fn early(before: &Snapshot, snapshot: &Snapshot) -> BTreeSet<ObjectKey> {
    if before.http_routes.is_same(&snapshot.http_routes) {
        return BTreeSet::new();
    }
    let is_early = |(key, route): &(&ObjectKey, &Arc<HttpRoute>)| {
        let known = before.http_routes.get(key);
        !known.is_some_and(|known| Arc::ptr_eq(known, route))
            && references(route).any(|reference| reference.is_dangling(snapshot, &key.namespace))
            && known != Some(route)
    };
    snapshot.http_routes.iter().filter(is_early).map(|(key, _)| key.clone()).collect()
}

/// All routes, with the previous versions of those in `early`.
fn routes(before: &Snapshot, snapshot: &Snapshot, early: &BTreeSet<ObjectKey>) -> ObjectMap<HttpRoute> {
    if early.is_empty() {
        return snapshot.http_routes.clone();
    }
    let previous = |(key, route): (&ObjectKey, &Arc<HttpRoute>)| {
        let route = if early.contains(key) { before.http_routes.get(key)? } else { route };
        Some((key.clone(), Arc::clone(route)))
    };
    snapshot.http_routes.iter().filter_map(previous).collect()
}

/// Deleted backends that one of `routes` still names.
fn late(before: &Snapshot, snapshot: &Snapshot, routes: &ObjectMap<HttpRoute>) -> BTreeSet<DeletedBackend> {
    let pools = deleted(&before.inference_pools, &snapshot.inference_pools).map(DeletedBackend::Pool);
    let services = deleted(&before.services, &snapshot.services).map(DeletedBackend::Service);
    let deleted: BTreeSet<DeletedBackend> = pools.chain(services).collect();
    if deleted.is_empty() {
        return deleted;
    }
    let named = routes.iter().flat_map(|(route, object)| {
        references(object).filter_map(|reference| {
            let key = reference.key(&route.namespace);
            let named = if reference.is_to_pool() {
                DeletedBackend::Pool(key)
            } else if reference.is_to_service() {
                DeletedBackend::Service(key)
            } else {
                return None;
            };
            deleted.contains(&named).then_some(named)
        })
    });
    named.collect()
}

fn deleted<T>(before: &ObjectMap<T>, now: &ObjectMap<T>) -> impl Iterator<Item = ObjectKey> {
    let before = (!before.is_same(now)).then_some(before);
    before.into_iter().flat_map(|it| it.keys()).filter(|key| !now.contains_key(key)).cloned()
}

fn keep<T>(before: &ObjectMap<T>, settled: &mut ObjectMap<T>, key: ObjectKey) {
    if let Some(object) = before.get(&key) {
        settled.insert(key, Arc::clone(object));
    }
}

fn references(route: &HttpRoute) -> impl Iterator<Item = Reference<'_>> {
    let rules = route.spec.rules.iter().flatten();
    rules.flat_map(|rule| rule.backend_refs.iter().flatten()).map(Reference::of_backend)
}
