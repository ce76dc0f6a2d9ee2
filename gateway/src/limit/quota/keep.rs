//! How the counters of a quota are kept in a file, and restored.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_routing::QuotaLimit;

use super::exchange::measure;
use super::state::{QuotaState, State};
use super::stored::{StoredCounters, StoredQuota};
use super::values::Place;

/// Sets of counters that are read while the lock is held.
const SETS_PER_LOCK: usize = 256;
/// Stored times that are further ahead of the clock are not believed: the clock was wrong, and would close limits for long.
const MAX_AHEAD_SECONDS: u64 = 300;

impl QuotaState {
    /// What requests that have ended used.
    pub(super) fn stored(&self) -> StoredQuota {
        let (places, limits, latest) = {
            let state = self.lock();
            (state.counters.used_places(), state.limits.clone(), state.latest)
        };
        let mut counters = Vec::with_capacity(places.len());
        for places in places.chunks(SETS_PER_LOCK) {
            let state = &mut *self.lock();
            // They belong to the limits of before.
            if state.limits != limits {
                break;
            }
            counters.extend(places.iter().filter_map(|place| stored(state, place)));
        }
        StoredQuota { latest, limits: limits.iter().map(kind).collect(), counters }
    }

    /// Takes over what was used before a restart. `now`: seconds since 1970.
    pub(super) fn restore(&self, stored: &StoredQuota, now: u64) {
        let state = &mut *self.lock();
        let newest = now.saturating_add(MAX_AHEAD_SECONDS);
        let positions = positions(&state.limits, &stored.limits);
        let mut is_ahead = false;
        for StoredCounters { value, counters } in &stored.counters {
            let place = state.counters.find(value.as_deref(), now).place;
            let own = state.counters.at(&place);
            for (at, position) in positions.iter().enumerate() {
                let Some(counter) = position.and_then(|position| counters.get(position)) else { continue };
                if counter.window.0 > newest {
                    is_ahead = true;
                } else {
                    own.restore(at, positions.len(), counter);
                }
            }
        }
        state.latest = state.latest.max(stored.latest.min(newest));
        if is_ahead {
            tracing::warn!(
                quota = %self.quota,
                "the quota file has windows that have not begun: the clock was ahead, or is behind; what was used in them is forgotten"
            );
        }
    }
}

fn stored(state: &mut State, place: &Place) -> Option<StoredCounters> {
    let value = match place {
        Place::Shared => None,
        Place::Own(value) => Some(Arc::clone(value)),
    };
    let counters = state.counters.get(place)?.stored();
    let is_used = counters.iter().any(|counter| counter.used > 0);
    is_used.then(|| StoredCounters { value: value.map(|it| it.to_string()), counters })
}

/// `output day`
fn kind(limit: &QuotaLimit) -> String {
    format!("{} {}", measure(limit), limit.window_name().unwrap_or("now"))
}

/// For each limit, its position in the file: that of the first one of its kind that is not taken.
fn positions(limits: &[QuotaLimit], stored: &[String]) -> Vec<Option<usize>> {
    let mut taken = BTreeSet::new();
    let position = |limit: &QuotaLimit| {
        let kind = kind(limit);
        let found = stored.iter().enumerate().find(|(at, it)| **it == kind && !taken.contains(at));
        found.map(|(at, _)| {
            taken.insert(at);
            at
        })
    };
    limits.iter().map(position).collect()
}
