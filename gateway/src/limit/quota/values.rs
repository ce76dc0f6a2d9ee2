//! Counters for each value of `per`.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;

use super::counters::Counters;

/// Maximum values of a quota with counters of their own.
pub(super) const MAX_VALUES: usize = 16_384;
/// Longer values have no counters of their own.
const MAX_VALUE_BYTES: usize = 256;
/// Counters that are tried to be forgotten for a new value. Those of the longest-used requests may still be in use.
const MAX_FORGET_TRIES: usize = 8;

/// The counters of a quota.
#[derive(Debug)]
pub(super) struct CounterMap {
    /// Of requests without a value, and of values without counters of their own.
    shared: Counters,
    /// In the order of their last use.
    by_value: LinkedHashMap<Arc<str>, Counters, RandomState>,
    max_values: usize,
}

/// Which counters a request uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Shared,
    Own(Arc<str>),
}

/// The counters for a value, and why they are shared.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    /// There is no room for counters of its own.
    pub(super) is_crowded_out: bool,
}

impl CounterMap {
    pub(super) fn new(max_values: usize) -> Self {
        Self {
            shared: Counters::default(),
            by_value: LinkedHashMap::with_hasher(RandomState::default()),
            max_values,
        }
    }

    /// The counters of a value. If there are too many, those that were not used for the longest time are forgotten, if that
    /// opens no window again. Else the value shares counters.
    pub(super) fn find(&mut self, value: Option<&str>, now: u64) -> Found {
        let shared = |is_crowded_out| Found { place: Place::Shared, is_crowded_out };
        let Some(value) = value.filter(|value| value.len() <= MAX_VALUE_BYTES) else { return shared(false) };
        if let RawEntryMut::Occupied(mut known) = self.by_value.raw_entry_mut().from_key(value) {
            known.to_back();
            return Found { place: Place::Own(known.key().clone()), is_crowded_out: false };
        }
        if self.by_value.len() >= self.max_values && !self.forget_one(now) {
            return shared(true);
        }
        let value: Arc<str> = value.into();
        self.by_value.insert(value.clone(), Counters::default());
        Found { place: Place::Own(value), is_crowded_out: false }
    }

    fn forget_one(&mut self, now: u64) -> bool {
        let mut oldest = self.by_value.iter().take(MAX_FORGET_TRIES);
        let found = oldest.find(|(_, counters)| counters.are_over(now)).map(|(value, _)| value.clone());
        found.is_some_and(|value| self.by_value.remove(&value).is_some())
    }

    /// The counters at a place. Those with requests in flight are never forgotten.
    pub(super) fn at(&mut self, place: &Place) -> &mut Counters {
        match place {
            Place::Own(value) => match self.by_value.get_mut(value) {
                Some(counters) => counters,
                None => &mut self.shared,
            },
            Place::Shared => &mut self.shared,
        }
    }

    /// The counters at a place, if they were not forgotten.
    pub(super) fn get(&mut self, place: &Place) -> Option<&mut Counters> {
        match place {
            Place::Own(value) => self.by_value.get_mut(value),
            Place::Shared => Some(&mut self.shared),
        }
    }

    /// The places of counters that are not 0.
    pub(super) fn used_places(&self) -> Vec<Place> {
        let own = self.by_value.iter().filter(|(_, counters)| counters.are_used());
        let own = own.map(|(value, _)| Place::Own(value.clone()));
        self.shared.are_used().then_some(Place::Shared).into_iter().chain(own).collect()
    }

    /// The counters of a value, if it has been used. Uses nothing.
    pub(super) fn peek(&self, value: Option<&str>) -> Counters {
        match value.filter(|value| value.len() <= MAX_VALUE_BYTES) {
            None => self.shared.clone(),
            Some(value) => match self.by_value.get(value) {
                Some(counters) => counters.clone(),
                None if self.by_value.len() >= self.max_values => self.shared.clone(),
                None => Counters::default(),
            },
        }
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Counters> {
        std::iter::once(&mut self.shared).chain(self.by_value.values_mut())
    }
}
