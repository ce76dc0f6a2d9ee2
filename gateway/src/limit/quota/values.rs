//! Counters for each value of `per`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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
    by_value: HashMap<Arc<str>, Own>,
    /// Values by their last use.
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    max_values: usize,
}

#[derive(Debug)]
struct Own {
    counters: Counters,
    last_use: u64,
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
        let (by_value, by_use) = (HashMap::new(), BTreeMap::new());
        Self { shared: Counters::default(), by_value, by_use, uses: 0, max_values }
    }

    /// The counters of a value. If there are too many, those that were not used for the longest time are forgotten, if that
    /// opens no window again. Else the value shares counters.
    pub(super) fn find(&mut self, value: Option<&str>, now: u64) -> Found {
        let shared = |is_crowded_out| Found { place: Place::Shared, is_crowded_out };
        let Some(value) = value.filter(|value| value.len() <= MAX_VALUE_BYTES) else { return shared(false) };
        self.uses += 1;
        if let Some((value, own)) =
            self.by_value.get_key_value(value).map(|(value, own)| (value.clone(), own.last_use))
        {
            self.by_use.remove(&own);
            self.used(value.clone());
            return Found { place: Place::Own(value), is_crowded_out: false };
        }
        if self.by_value.len() >= self.max_values && !self.forget_one(now) {
            return shared(true);
        }
        let value: Arc<str> = value.into();
        self.by_value.insert(value.clone(), Own { counters: Counters::default(), last_use: self.uses });
        self.used(value.clone());
        Found { place: Place::Own(value), is_crowded_out: false }
    }

    fn used(&mut self, value: Arc<str>) {
        if let Some(own) = self.by_value.get_mut(&value) {
            own.last_use = self.uses;
        }
        self.by_use.insert(self.uses, value);
    }

    fn forget_one(&mut self, now: u64) -> bool {
        let is_over =
            |value: &Arc<str>| self.by_value.get(value).is_none_or(|own| own.counters.are_over(now));
        let found = self.by_use.iter().take(MAX_FORGET_TRIES).find(|(_, value)| is_over(value));
        let Some(last_use) = found.map(|(last_use, _)| *last_use) else { return false };
        if let Some(value) = self.by_use.remove(&last_use) {
            self.by_value.remove(&value);
        }
        true
    }

    /// The counters at a place. Those with requests in flight are never forgotten.
    pub(super) fn at(&mut self, place: &Place) -> &mut Counters {
        match place {
            Place::Own(value) => match self.by_value.get_mut(value) {
                Some(own) => &mut own.counters,
                None => &mut self.shared,
            },
            Place::Shared => &mut self.shared,
        }
    }

    /// The counters at a place, if they were not forgotten.
    pub(super) fn get(&mut self, place: &Place) -> Option<&mut Counters> {
        match place {
            Place::Own(value) => self.by_value.get_mut(value).map(|own| &mut own.counters),
            Place::Shared => Some(&mut self.shared),
        }
    }

    /// The places of counters that are not 0.
    pub(super) fn used_places(&self) -> Vec<Place> {
        let own = self.by_value.iter().filter(|(_, own)| own.counters.are_used());
        let own = own.map(|(value, _)| Place::Own(value.clone()));
        self.shared.are_used().then_some(Place::Shared).into_iter().chain(own).collect()
    }

    /// The counters of a value, if it has been used. Uses nothing.
    pub(super) fn peek(&self, value: Option<&str>) -> Counters {
        match value.filter(|value| value.len() <= MAX_VALUE_BYTES) {
            None => self.shared.clone(),
            Some(value) => match self.by_value.get(value) {
                Some(own) => own.counters.clone(),
                None if self.by_value.len() >= self.max_values => self.shared.clone(),
                None => Counters::default(),
            },
        }
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Counters> {
        std::iter::once(&mut self.shared).chain(self.by_value.values_mut().map(|own| &mut own.counters))
    }
}
