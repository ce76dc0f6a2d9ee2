//! What the callers that share counters have used of the limits of a quota.

use std::time::{Duration, Instant};

use forebay_routing::{Measure, Price, QuotaLimit, QuotaMeasure, TokenUse};
use smallvec::SmallVec;

use super::share::{Share, Shares};
use super::stored::StoredCounter;
use super::window::Window;
use crate::limit::standing::Standing;

/// Counters of all limits of a quota, in the order of the limits.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    all: Vec<Counter>,
    /// Requests that have not ended.
    pub(super) in_flight: u64,
    /// What the store of all gateways knows of them.
    pub(super) shared: SharedState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// In `window`, with what is reserved. May be above the limit.
    used: u128,
    /// For requests in flight.
    reserved: u128,
    /// Of the latest request that used any.
    usual: u128,
    /// In `window`, by other gateways.
    others: u128,
    /// `used` may rise to it without asking the store.
    granted: u128,
    window: Window,
}

/// Where a set of counters is between this gateway and the store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SharedState {
    /// What is granted may be used until then.
    pub(super) granted_until: Option<Instant>,
    /// It is in the list of changes.
    pub(super) is_changed: bool,
    /// A renewal is due at some time.
    pub(super) is_renewed: bool,
}

/// What this gateway and others have used of a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct CounterUse {
    pub(super) used: u128,
    pub(super) reserved: u128,
    pub(super) usual: u128,
    /// 0 of concurrent requests.
    pub(super) window: Window,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuotaStanding {
    pub(crate) limit: QuotaLimit,
    /// What this gateway admits of it. The whole amount, if gateways share the counters.
    pub(crate) share: u128,
    /// Of the share. 0 if more was used.
    pub(crate) remaining: u128,
    /// Time until all of it is left again. 0 of concurrent requests: that depends on them.
    pub(crate) reset_after: Duration,
}

/// Of all limits of a quota, in their order.
pub(super) type Standings = SmallVec<[QuotaStanding; 2]>;

/// The limit without room for a request that opens last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    pub(super) limit: QuotaLimit,
    /// What this gateway admits of it.
    pub(super) share: u128,
    /// End of its window. `None` for concurrent requests.
    pub(super) opens_at: Option<u64>,
}

/// What this gateway admits of limits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Amounts<'s> {
    /// All, together with what other gateways use.
    Shared,
    /// Its share.
    Divided { shares: &'s Shares, now: u64 },
    /// The smaller one of its shares, by two counts of the gateways.
    DividedTwice { shares: &'s Shares, now: u64, share: Share },
}

impl Amounts<'_> {
    fn of(&self, limit: &QuotaLimit, window: Window) -> u128 {
        match self {
            Self::Shared => limit.amount,
            Self::Divided { shares, now } => shares.of(limit, window, *now),
            Self::DividedTwice { shares, now, share } => {
                shares.of(limit, window, *now).min(share.of(limit.amount))
            }
        }
    }

    fn others(&self, counter: &Counter) -> u128 {
        if matches!(self, Self::Shared) { counter.others } else { 0 }
    }
}

/// What a request in flight takes of limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) tokens: TokenUse,
    pub(super) price: Option<Price>,
}

impl Need {
    pub(super) fn of(&self, limit: &QuotaLimit) -> u128 {
        match limit.measure {
            QuotaMeasure::ConcurrentRequests => 1,
            _ => limit.used_by(self.tokens, self.price),
        }
    }
}

impl Counters {
    /// Begins the windows that contain `now`. Counters of new limits are added.
    pub(super) fn roll(&mut self, limits: &[QuotaLimit], now: u64) {
        self.all.resize(limits.len(), Counter::default());
        for (counter, limit) in self.all.iter_mut().zip(limits) {
            if let Some(window) = limit.window.filter(|_| now >= counter.window.end) {
                let window = Window::containing(window, now);
                *counter = Counter { window, usual: counter.usual, ..Counter::default() };
            }
        }
    }

    /// The counters of changed limits: each that of the old limit at its position, or a new one.
    pub(super) fn change(&mut self, positions: &[Option<usize>]) {
        let old = std::mem::take(&mut self.all);
        let carried = |at: &Option<usize>| at.and_then(|at| old.get(at).copied()).unwrap_or_default();
        self.all = positions.iter().map(carried).collect();
        self.shared.granted_until = None;
    }

    fn used(&self, limit: &QuotaLimit, counter: &Counter) -> u128 {
        match limit.measure {
            QuotaMeasure::ConcurrentRequests => self.in_flight.into(),
            _ => counter.used,
        }
    }

    /// Whether nothing of what is counted matters any more.
    pub(super) fn are_over(&self, now: u64) -> bool {
        self.in_flight == 0 && self.all.iter().all(|counter| counter.window.end <= now)
    }

    /// Why there is no room for a request. Call [`Counters::roll`] before.
    pub(super) fn closed(&self, limits: &[QuotaLimit], need: &Need, amounts: Amounts<'_>) -> Option<Closed> {
        let closed = limits.iter().zip(&self.all).filter_map(|(limit, counter)| {
            let (amount, needed) = (amounts.of(limit, counter.window), need.of(limit));
            let used = self.used(limit, counter).saturating_add(amounts.others(counter));
            // A share of nothing has no room, also for a request that needs more than the whole limit.
            let is_full = needed > 0 && (amount == 0 || used.saturating_add(needed.min(amount)) > amount);
            is_full.then(|| closed(limit, counter, amount))
        });
        closed.max_by_key(|it| it.opens_at)
    }

    /// The limit that opens last.
    pub(super) fn last(&self, limits: &[QuotaLimit]) -> Option<Closed> {
        let all = limits.iter().zip(&self.all).map(|(limit, counter)| closed(limit, counter, limit.amount));
        all.max_by_key(|it| it.opens_at)
    }

    /// Whether a request fits into what the store has granted in advance.
    pub(super) fn are_granted(&self, limits: &[QuotaLimit], need: &Need, now: Instant) -> bool {
        let is_granted = |(limit, counter): (&QuotaLimit, &Counter)| {
            let needed = need.of(limit);
            needed == 0 || self.used(limit, counter).saturating_add(needed) <= counter.granted
        };
        self.shared.granted_until.is_some_and(|until| now < until)
            && limits.iter().zip(&self.all).all(is_granted)
    }

    /// Counts a request.
    pub(super) fn take(&mut self, limits: &[QuotaLimit], need: &Need) {
        self.in_flight += 1;
        for (counter, limit) in self.all.iter_mut().zip(limits) {
            let needed = need.of(limit);
            counter.used = counter.used.saturating_add(needed);
            counter.reserved = counter.reserved.saturating_add(needed);
            if needed > 0 {
                counter.usual = needed;
            }
        }
    }

    /// Corrects the counter at a position. A request that was admitted at `admitted` is in it if its window had begun then.
    pub(super) fn correct(&mut self, at: usize, admitted: u64, reserved: u128, used: u128) {
        if let Some(counter) = self.all.get_mut(at).filter(|counter| counter.window.start <= admitted) {
            counter.used = counter.used.saturating_sub(reserved).saturating_add(used);
            counter.reserved = counter.reserved.saturating_sub(reserved);
        }
    }

    /// For the store. In the order of the limits.
    pub(super) fn uses(&self, limits: &[QuotaLimit]) -> Vec<CounterUse> {
        let of = |(limit, counter): (&QuotaLimit, &Counter)| {
            let used = self.used(limit, counter);
            let is_concurrent = limit.measure == QuotaMeasure::ConcurrentRequests;
            let reserved = if is_concurrent { used } else { counter.reserved };
            CounterUse { used, reserved, usual: counter.usual.max(1), window: counter.window }
        };
        limits.iter().zip(&self.all).map(of).collect()
    }

    /// Takes over what the store has told of the limit at a position, in the window that begins at `start`.
    pub(super) fn set_shared(&mut self, at: usize, start: u64, others: u128, granted: u128) {
        if let Some(counter) = self.all.get_mut(at).filter(|counter| counter.window.start == start) {
            (counter.others, counter.granted) = (others, granted);
        }
    }

    /// What requests that have ended used, in the order of the limits.
    pub(super) fn stored(&self) -> Vec<StoredCounter> {
        let of = |counter: &Counter| StoredCounter {
            used: counter.used.saturating_sub(counter.reserved),
            window: (counter.window.start, counter.window.end),
        };
        self.all.iter().map(of).collect()
    }

    /// Adds what was used of the limit at a position before a restart. `limits`: the number of limits.
    pub(super) fn restore(&mut self, at: usize, limits: usize, stored: &StoredCounter) {
        self.all.resize(limits, Counter::default());
        let Some(counter) = self.all.get_mut(at) else { return };
        let (start, end) = stored.window;
        let window = Window { start, end };
        if counter.window.start < start {
            *counter = Counter { window, ..Counter::default() };
        }
        if counter.window == window {
            counter.used = counter.used.saturating_add(stored.used);
        }
    }

    /// Whether the store has to be told again within its lease: this gateway holds something that is not used yet.
    pub(super) fn hold(&self) -> bool {
        self.in_flight > 0 || self.all.iter().any(|counter| counter.granted > counter.used)
    }

    /// Whether the store has to know of them.
    pub(super) fn are_used(&self) -> bool {
        self.in_flight > 0 || self.all.iter().any(|counter| counter.used > 0)
    }

    /// Call [`Counters::roll`] before. `now`: of the system's clock, which may be behind the windows.
    pub(super) fn standings(&self, limits: &[QuotaLimit], now: u64, amounts: Amounts<'_>) -> Standings {
        let standing = |(limit, counter): (&QuotaLimit, &Counter)| {
            let used = self.used(limit, counter).saturating_add(amounts.others(counter));
            let share = amounts.of(limit, counter.window);
            let seconds = limit.window.map_or(0, |_| counter.window.end.saturating_sub(now));
            QuotaStanding {
                limit: *limit,
                share,
                remaining: share.saturating_sub(used),
                reset_after: Duration::from_secs(seconds),
            }
        };
        limits.iter().zip(&self.all).map(standing).collect()
    }
}

/// A share of nothing never opens. Another gateway may have room.
fn closed(limit: &QuotaLimit, counter: &Counter, share: u128) -> Closed {
    let opens_at = limit.window.filter(|_| share > 0).map(|_| counter.window.end);
    Closed { limit: *limit, share, opens_at }
}

impl QuotaStanding {
    /// For the headers of the OpenAI API, which has some for requests and tokens.
    pub(super) fn shown(&self) -> Option<Standing> {
        let measure = match self.limit.measure {
            QuotaMeasure::Requests => Measure::Requests,
            QuotaMeasure::Tokens(_) => Measure::Tokens,
            QuotaMeasure::Money | QuotaMeasure::ConcurrentRequests => return None,
        };
        let [limit, remaining] =
            [self.limit.amount, self.remaining].map(|it| u64::try_from(it).unwrap_or(u64::MAX));
        Some(Standing { measure, limit, remaining, reset_after: self.reset_after })
    }
}
