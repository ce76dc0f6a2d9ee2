//! How the counters of a quota are told to the store.

use std::sync::Arc;
use std::time::Instant;

use forebay_resources::TokenCount;
use forebay_routing::{QuotaLimit, QuotaMeasure};
use sha2::{Digest as _, Sha256};

use super::counters::Counters;
use super::exceeded::QuotaExceeded;
use super::state::{QuotaState, QuotaTaken, State, Wanted};
use super::store::{Applied, Call, CallLimit, Reply, Shared};
use super::values::Place;
use super::window::unix_seconds;

/// Counters are kept for so long after their window: for gateways whose clocks are behind.
const KEPT_SECONDS: u64 = 600;

/// The limits of a call, and the starts of their windows.
#[derive(Debug)]
pub(super) struct Sent {
    limits: Vec<QuotaLimit>,
    starts: Vec<u64>,
}

impl Shared for QuotaState {
    type Place = Place;
    type Request = Wanted;
    type Outcome = Result<QuotaTaken, Box<QuotaExceeded>>;
    type Sent = Sent;

    fn call(&self, place: &Place, requests: &[Wanted], grants: bool) -> (Call, Sent) {
        let state = &mut *self.lock();
        state.latest = state.latest.max(unix_seconds());
        // Counters that were forgotten meanwhile have used nothing.
        let mut forgotten = Counters::default();
        let counters = state.counters.get(place).unwrap_or(&mut forgotten);
        counters.shared.is_changed = false;
        counters.roll(&state.limits, state.latest);
        let tag = tag(&self.quota.to_string(), place);
        let mut starts = Vec::new();
        let limits = state.limits.iter().zip(counters.uses(&state.limits)).enumerate();
        let limits = limits.map(|(at, (limit, it))| {
            starts.push(it.window.start);
            let same = state.limits.iter().take(at).filter(|earlier| is_same_count(earlier, limit)).count();
            CallLimit {
                key: key(&tag, limit, same, it.window.start),
                amount: limit.amount,
                used: it.used,
                reserved: it.reserved,
                usual: if grants { it.usual } else { 0 },
                ends: limit.window.map(|_| it.window.end.saturating_add(KEPT_SECONDS)),
            }
        });
        let limits = limits.collect();
        let needs = requests.iter().map(|wanted| {
            let need = wanted.need();
            state.limits.iter().map(|limit| need.of(limit)).collect()
        });
        let needs = needs.collect();
        (Call { limits, needs }, Sent { limits: state.limits.clone(), starts })
    }

    fn apply(
        self: &Arc<Self>,
        place: &Place,
        sent: Sent,
        requests: Vec<Wanted>,
        reply: &Reply,
        until: Instant,
    ) -> Applied<Self::Outcome> {
        let state = &mut *self.lock();
        if sent.limits == state.limits
            && let Some(counters) = state.counters.get(place)
        {
            counters.shared.granted_until = Some(until);
            for (at, (start, limit)) in sent.starts.iter().zip(&reply.limits).enumerate() {
                counters.set_shared(at, *start, limit.others, limit.granted);
            }
        }
        let outcomes = requests.into_iter().zip(&reply.reserved);
        let outcomes =
            outcomes.map(|(wanted, is_reserved)| self.outcome(state, wanted, *is_reserved)).collect();
        let must_be_renewed = state.counters.get(place).is_some_and(|counters| {
            let is_due = counters.hold() && !counters.shared.is_renewed;
            counters.shared.is_renewed |= is_due;
            is_due
        });
        Applied { outcomes, must_be_renewed }
    }

    fn failed(self: &Arc<Self>, place: &Place) {
        let state = &mut *self.lock();
        if state.counters.get(place).is_some() {
            self.changed(state, place);
        }
    }

    fn renewing(&self, place: &Place) {
        if let Some(counters) = self.lock().counters.get(place) {
            counters.shared.is_renewed = false;
        }
    }

    fn changed_all(self: &Arc<Self>) {
        let state = &mut *self.lock();
        for place in state.counters.used_places() {
            self.changed(state, &place);
        }
    }
}

impl QuotaState {
    fn outcome(
        self: &Arc<Self>,
        state: &mut State,
        wanted: Wanted,
        is_reserved: bool,
    ) -> Result<QuotaTaken, Box<QuotaExceeded>> {
        if is_reserved {
            return Ok(self.taken(state, wanted, false));
        }
        let rolled = state.rolled(wanted.place());
        // A limit may have room again since the store has answered.
        match rolled.closed(&wanted.need()).or_else(|| rolled.last()) {
            Some(closed) => Err(self.exceeded(state, &wanted, closed)),
            None => Ok(self.taken(state, wanted, false)),
        }
    }
}

/// Limits that count the same in the same window have counters of their own.
fn is_same_count(one: &QuotaLimit, other: &QuotaLimit) -> bool {
    one.measure == other.measure && one.window == other.window
}

/// The part of the keys of a set that decides on their place in a cluster of stores. Values may be names of persons, and are
/// of any length, so the store has their hash.
fn tag(quota: &str, place: &Place) -> String {
    match place {
        Place::Shared => format!("{{{quota}}}"),
        Place::Own(value) => {
            let hash = Sha256::digest(value.as_bytes());
            let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            format!("{{{quota}/{hex}}}")
        }
    }
}

/// What a limit counts. Stores and files have it, so it must not change between versions of the program.
pub(super) fn measure(limit: &QuotaLimit) -> &'static str {
    match limit.measure {
        QuotaMeasure::Tokens(TokenCount::Total) => "tokens",
        QuotaMeasure::Tokens(TokenCount::Input) => "input",
        QuotaMeasure::Tokens(TokenCount::Output) => "output",
        QuotaMeasure::Tokens(TokenCount::UncachedInput) => "uncached-input",
        other => other.name(),
    }
}

/// `forebay:quota:{NAMESPACE/NAME/HASH}:output:day:1795824000`. `same`: earlier limits that count the same.
fn key(tag: &str, limit: &QuotaLimit, same: usize, start: u64) -> String {
    let measure = measure(limit);
    let window = limit.window_name().unwrap_or("now");
    let number = if same == 0 { String::new() } else { format!(":{same}") };
    format!("forebay:quota:{tag}:{measure}{number}:{window}:{start}")
}
