//! Makes snapshots out of what the watches know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Interest, Selection, Statuses,
    cache::{AnyCache, Cache, Changes},
    follow::Follow,
    outage::Outage,
    statuses::StatusStore,
};
use crate::{
    Kind, ObjectMap, Problem, Snapshot, Store,
    kind::{Object, Visitor},
};

/// A change is in the next snapshot at once, but snapshots have at least this
/// between them: readers do work for each.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// More watches than this are not begun: each is a connection.
const MAX_WATCHES: usize = 1000;

/// A watch with its cache; it ends when this is dropped.
struct Watch {
    cache: Arc<dyn AnyCache>,
    _task: AbortOnDropHandle<()>,
}

pub(super) struct Builder {
    client: Client,
    interest: Interest,
    store: Arc<Store>,
    status_store: Arc<StatusStore>,
    outage: Arc<Outage>,
    /// Some cache has changed.
    wake: Arc<Notify>,
    watches: BTreeMap<Selection, Watch>,
    /// Nobody wants these any more, but what takes their place is not listed yet.
    retired: BTreeMap<Selection, Watch>,
    /// The next snapshot, as far as it is made.
    draft: Snapshot,
    statuses: Statuses,
    reported: Vec<Problem>,
    is_over_limit: bool,
}

impl Builder {
    pub(super) fn new(
        client: Client,
        interest: Interest,
        store: Arc<Store>,
        status_store: Arc<StatusStore>,
    ) -> Self {
        Self {
            client,
            interest,
            store,
            status_store,
            outage: Arc::default(),
            wake: Arc::default(),
            watches: BTreeMap::new(),
            retired: BTreeMap::new(),
            draft: Snapshot::default(),
            statuses: Statuses::default(),
            reported: Vec::new(),
            is_over_limit: false,
        }
    }

    /// Runs until it is dropped, and all watches with it.
    pub(super) async fn run(mut self) {
        self.follow_interest();
        let mut is_published = false;
        loop {
            self.wake.notified().await;
            let began = Instant::now();
            let mut changes = self.take_changes();
            // What is wanted may follow from what has come, in more than one step.
            while changes.objects && self.follow_interest() {
                changes.add(self.take_changes());
            }
            let is_complete = self.watches.values().all(|watch| watch.cache.is_listed());
            if is_complete && !is_published {
                is_published = true;
                changes = Changes { objects: true, statuses: true };
            }
            if changes.objects && is_published {
                self.report();
                self.store.replace(self.draft.clone());
            }
            if changes.statuses && is_published {
                self.status_store.replace(self.statuses.clone());
            }
            sleep_until(began + MIN_INTERVAL).await;
        }
    }

    /// Brings everything into the draft that has changed in the caches.
    fn take_changes(&mut self) -> Changes {
        let mut all = Changes::default();
        let mut by_kind = BTreeMap::<Kind, Changes>::new();
        for (selection, watch) in self.watches.iter().chain(&self.retired) {
            let changes = watch.cache.take_changes();
            all.add(changes);
            by_kind.entry(selection.kind).or_default().add(changes);
        }
        // Those of which all successors have their objects are not needed any more.
        let watches = &self.watches;
        self.retired.retain(|selection, _| {
            let of_kind = |it: &Selection| it.kind == selection.kind;
            let is_needed = watches.iter().any(|(other, watch)| of_kind(other) && !watch.cache.is_listed());
            if !is_needed {
                let changes = Changes { objects: true, statuses: true };
                all.add(changes);
                by_kind.entry(selection.kind).or_default().add(changes);
            }
            is_needed
        });
        for (kind, changes) in by_kind {
            if changes.objects {
                kind.visit(Clear(&mut self.draft));
                self.each_of(kind, |cache, draft, _, is_first| cache.put_objects(draft, is_first));
            }
            if changes.statuses && self.interest.statuses.contains(&kind) {
                self.statuses.0.remove(&kind);
                self.each_of(kind, |cache, _, statuses, is_first| {
                    cache.put_statuses(statuses.0.entry(kind).or_default(), is_first);
                });
            }
        }
        if all.objects {
            let watches = self.watches.values().chain(self.retired.values());
            self.draft.problems = watches.flat_map(|watch| watch.cache.problems()).collect();
        }
        all
    }

    fn each_of(
        &mut self,
        kind: Kind,
        mut put: impl FnMut(&dyn AnyCache, &mut Snapshot, &mut Statuses, bool),
    ) {
        let of_kind =
            self.watches.iter().chain(&self.retired).filter(|(selection, _)| selection.kind == kind);
        for (index, (_, watch)) in of_kind.enumerate() {
            put(&*watch.cache, &mut self.draft, &mut self.statuses, index == 0);
        }
    }

    /// Begins and ends watches so that they are those that are wanted for the
    /// draft. True if some were ended.
    fn follow_interest(&mut self) -> bool {
        let wanted = self.interest.selections(&self.draft);
        let unwanted: Vec<Selection> =
            self.watches.keys().filter(|selection| !wanted.contains(selection)).cloned().collect();
        let has_ended = !unwanted.is_empty();
        for selection in unwanted {
            self.outage.ended(&selection);
            if let Some(watch) = self.watches.remove(&selection) {
                self.retired.insert(selection, watch);
            }
        }
        self.begin(wanted);
        has_ended
    }

    fn begin(&mut self, wanted: BTreeSet<Selection>) {
        let mut left_out = 0_usize;
        for selection in wanted {
            if self.watches.contains_key(&selection) {
                continue;
            }
            if let Some(watch) = self.retired.remove(&selection) {
                self.watches.insert(selection, watch);
            } else if self.watches.len() < MAX_WATCHES {
                let with_statuses = self.interest.statuses.contains(&selection.kind);
                let watch = selection.kind.visit(Begin {
                    client: self.client.clone(),
                    selection: selection.clone(),
                    with_statuses,
                    outage: Arc::clone(&self.outage),
                    wake: Arc::clone(&self.wake),
                });
                self.watches.insert(selection, watch);
            } else {
                left_out += 1;
            }
        }
        if left_out > 0 && !self.is_over_limit {
            tracing::warn!(
                limit = MAX_WATCHES,
                left_out,
                "more is wanted of the cluster than can be watched"
            );
        }
        self.is_over_limit = left_out > 0;
    }

    /// One line for each object that is newly left out.
    fn report(&mut self) {
        for problem in self.draft.problems.iter().filter(|problem| !self.reported.contains(problem)) {
            tracing::warn!("resource left out: {problem}");
        }
        self.reported.clone_from(&self.draft.problems);
    }
}

struct Clear<'a>(&'a mut Snapshot);

impl Visitor for Clear<'_> {
    type Output = ();

    fn visit<T: Object>(self) {
        *T::of(self.0) = ObjectMap::default();
    }
}

struct Begin {
    client: Client,
    selection: Selection,
    with_statuses: bool,
    outage: Arc<Outage>,
    wake: Arc<Notify>,
}

impl Visitor for Begin {
    type Output = Watch;

    fn visit<T: Object>(self) -> Watch {
        let cache = Arc::new(Cache::<T>::new(self.with_statuses, self.wake));
        let follow = Follow {
            client: self.client,
            selection: self.selection,
            cache: Arc::clone(&cache),
            outage: self.outage,
        };
        Watch { cache, _task: AbortOnDropHandle::new(tokio::spawn(follow.run())) }
    }
}
