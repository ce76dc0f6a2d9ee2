//! Each kind is watched by itself, so what was written one after the other may come in another order: a route before
//! the pool that it names, the end of a pool before the end of its route. Nobody asked for what lies between, and
//! clients are not to meet it as a 500: who lacks something waits a moment for it, and nobody else does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_resources::{HttpRoute, ObjectKey, ObjectMap, Snapshot};
use tokio::time::Instant;

use super::backend::Reference;

/// As long may what was written earlier come later. An API server that is busy is some 100 ms behind.
const PATIENCE: Duration = Duration::from_secs(1);

/// Brings snapshots into an order in which nothing leads nowhere only because the rest is still on its way.
#[derive(Debug, Default)]
pub struct Settling {
    /// What was given out last.
    in_force: Option<Arc<Snapshot>>,
    /// Routes that are new or have changed, and name what is not there: since when. In force is what they were.
    early: BTreeMap<ObjectKey, Instant>,
    /// Backends that are gone, and still named by a route: since when. They are kept.
    late: BTreeMap<Gone, Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gone {
    Pool(ObjectKey),
    Service(ObjectKey),
}

/// What is to be in force, and when that must be asked again.
#[derive(Debug)]
pub struct Settled {
    pub snapshot: Arc<Snapshot>,
    pub until: Option<Instant>,
}

impl Settling {
    /// The first snapshot is taken as it is: there is nothing yet that it could spoil.
    pub fn settle(&mut self, snapshot: Arc<Snapshot>, now: Instant) -> Settled {
        let settled = match self.in_force.take() {
            None => Settled { snapshot, until: None },
            Some(before) => self.after(&before, snapshot, now),
        };
        self.in_force = Some(Arc::clone(&settled.snapshot));
        settled
    }

    fn after(&mut self, before: &Snapshot, snapshot: Arc<Snapshot>, now: Instant) -> Settled {
        let early = early(before, &snapshot);
        let early = wait(&mut self.early, early, now);
        let routes = routes(before, &snapshot, &early);
        let late = late(before, &snapshot, &routes);
        let late = wait(&mut self.late, late, now);
        let until = self.early.values().chain(self.late.values()).min().map(|since| *since + PATIENCE);
        if early.is_empty() && late.is_empty() {
            return Settled { snapshot, until };
        }
        let mut settled = Snapshot::clone(&snapshot);
        settled.http_routes = routes;
        for gone in late {
            match gone {
                Gone::Pool(key) => keep(&before.inference_pools, &mut settled.inference_pools, key),
                Gone::Service(key) => keep(&before.services, &mut settled.services, key),
            }
        }
        Settled { snapshot: Arc::new(settled), until }
    }
}

/// Those of `found` that are still to be waited for. `waiting` is brought up to date.
fn wait<K: Ord + Clone>(waiting: &mut BTreeMap<K, Instant>, found: BTreeSet<K>, now: Instant) -> BTreeSet<K> {
    let is_waited_for = |key: &K| *waiting.entry(key.clone()).or_insert(now) + PATIENCE > now;
    let found: BTreeSet<K> = found.into_iter().filter(is_waited_for).collect();
    waiting.retain(|key, _| found.contains(key));
    found
}

/// Routes that are not what they were, and name something that is not there.
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

/// The routes, with those that are early as they were before.
fn routes(before: &Snapshot, snapshot: &Snapshot, early: &BTreeSet<ObjectKey>) -> ObjectMap<HttpRoute> {
    if early.is_empty() {
        return snapshot.http_routes.clone();
    }
    let as_it_was = |(key, route): (&ObjectKey, &Arc<HttpRoute>)| {
        let route = if early.contains(key) { before.http_routes.get(key)? } else { route };
        Some((key.clone(), Arc::clone(route)))
    };
    snapshot.http_routes.iter().filter_map(as_it_was).collect()
}

/// What is there no more, though one of `routes` names it.
fn late(before: &Snapshot, snapshot: &Snapshot, routes: &ObjectMap<HttpRoute>) -> BTreeSet<Gone> {
    let pools = gone(&before.inference_pools, &snapshot.inference_pools).map(Gone::Pool);
    let services = gone(&before.services, &snapshot.services).map(Gone::Service);
    let gone: BTreeSet<Gone> = pools.chain(services).collect();
    if gone.is_empty() {
        return gone;
    }
    let named = routes.iter().flat_map(|(route, object)| {
        references(object).filter_map(|reference| {
            let key = reference.key(&route.namespace);
            let named = if reference.is_to_pool() {
                Gone::Pool(key)
            } else if reference.is_to_service() {
                Gone::Service(key)
            } else {
                return None;
            };
            gone.contains(&named).then_some(named)
        })
    });
    named.collect()
}

fn gone<T>(before: &ObjectMap<T>, now: &ObjectMap<T>) -> impl Iterator<Item = ObjectKey> {
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
