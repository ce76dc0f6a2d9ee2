//! Builds snapshots from the caches of all watches.

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
    cache::{AnyCache, Cache, Changes},
    outage::Outage,
    selection::{Interest, Selection},
    statuses::{StatusStore, Statuses},
    watch,
};
use crate::{
    Kind, ObjectMap, Problem, Snapshot, Store,
    kind::{Object, Visitor},
};

/// Minimum interval between snapshots: readers do work for each of them.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum concurrent watches: each is a stream of the API server.
const MAX_WATCHES: usize = 1000;

/// A running watch and its cache. Ends when dropped.
struct RunningWatch {
    cache: Arc<dyn AnyCache>,
    _task: AbortOnDropHandle<std::convert::Infallible>,
}

pub(super) struct Builder {
    client: Client,
    interest: Interest,
    store: Arc<Store>,
    status_store: Arc<StatusStore>,
    outage: Arc<Outage>,
    /// Notified when a cache has changed.
    wake: Arc<Notify>,
    watches: BTreeMap<Selection, RunningWatch>,
    /// Not wanted any more, kept until their replacements have been listed.
    retired: BTreeMap<Selection, RunningWatch>,
    /// The next snapshot.
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

    /// Runs until it is dropped. Its watches end with it.
    pub(super) async fn run(mut self) {
        self.follow_interest();
        let mut is_published = false;
        loop {
            self.wake.notified().await;
            let began = Instant::now();
            let mut changes = self.take_changes();
            // The interest depends on the objects, which may take several steps.
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

    /// Copies changes from the caches into the draft.
    fn take_changes(&mut self) -> Changes {
        let mut all = Changes::default();
        let mut by_kind = BTreeMap::<Kind, Changes>::new();
        for (selection, watch) in self.watches.iter().chain(&self.retired) {
            let changes = watch.cache.take_changes();
            all.add(changes);
            by_kind.entry(selection.kind).or_default().add(changes);
        }
        // A retired watch is dropped when all watches of its kind have been listed.
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

    /// Starts and retires watches so that they match the interest in the draft. Returns whether some were retired.
    fn follow_interest(&mut self) -> bool {
        let wanted = self.interest.selections(&self.draft);
        let unwanted: Vec<Selection> =
            self.watches.keys().filter(|selection| !wanted.contains(selection)).cloned().collect();
        let has_retired = !unwanted.is_empty();
        for selection in unwanted {
            self.outage.ended(&selection);
            if let Some(watch) = self.watches.remove(&selection) {
                self.retired.insert(selection, watch);
            }
        }
        self.start(wanted);
        has_retired
    }

    fn start(&mut self, wanted: BTreeSet<Selection>) {
        let mut skipped = 0_usize;
        for selection in wanted {
            if self.watches.contains_key(&selection) {
                continue;
            }
            if let Some(watch) = self.retired.remove(&selection) {
                self.watches.insert(selection, watch);
            } else if self.watches.len() < MAX_WATCHES {
                let with_statuses = self.interest.statuses.contains(&selection.kind);
                let watch = selection.kind.visit(Start {
                    client: self.client.clone(),
                    selection: selection.clone(),
                    with_statuses,
                    outage: Arc::clone(&self.outage),
                    wake: Arc::clone(&self.wake),
                });
                self.watches.insert(selection, watch);
            } else {
                skipped += 1;
            }
        }
        if skipped > 0 && !self.is_over_limit {
            tracing::warn!(
                limit = MAX_WATCHES,
                skipped,
                "watch limit exceeded: objects of the skipped selections are not read"
            );
        }
        self.is_over_limit = skipped > 0;
    }

    /// Logs each newly invalid object once.
    fn report(&mut self) {
        for problem in self.draft.problems.iter().filter(|problem| !self.reported.contains(problem)) {
            tracing::warn!("invalid resource ignored: {problem}");
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

struct Start {
    client: Client,
    selection: Selection,
    with_statuses: bool,
    outage: Arc<Outage>,
    wake: Arc<Notify>,
}

impl Visitor for Start {
    type Output = RunningWatch;

    fn visit<T: Object>(self) -> RunningWatch {
        let cache = Arc::new(Cache::<T>::new(self.with_statuses, self.wake));
        let watch = watch::Watch {
            client: self.client,
            selection: self.selection,
            cache: Arc::clone(&cache),
            outage: self.outage,
        };
        RunningWatch { cache, _task: AbortOnDropHandle::new(tokio::spawn(watch.run())) }
    }
}
