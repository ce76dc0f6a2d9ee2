//! What the callers that share counters have used of the limits of a quota.

use std::time::Duration;

use forebay_routing::{Measure, Price, QuotaLimit, QuotaMeasure, TokenUse};

use super::window::Window;
use crate::limit::standing::Standing;

/// Counters of all limits of a quota, in the order of the limits.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    all: Vec<Counter>,
    /// Requests that have not ended.
    pub(super) in_flight: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// In `window`. May be above the limit.
    used: u128,
    window: Window,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuotaStanding {
    pub(crate) limit: QuotaLimit,
    /// 0 if more was used than the limit has.
    pub(crate) remaining: u128,
    /// Time until all of it is left again. 0 of concurrent requests: that depends on them.
    pub(crate) reset_after: Duration,
}

/// The limit without room for a request that opens last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    pub(super) limit: QuotaLimit,
    /// End of its window. `None` for concurrent requests.
    pub(super) opens_at: Option<u64>,
}

impl Counters {
    /// Begins the windows that contain `now`. Counters of new limits are added.
    pub(super) fn roll(&mut self, limits: &[QuotaLimit], now: u64) {
        self.all.resize(limits.len(), Counter::default());
        for (counter, limit) in self.all.iter_mut().zip(limits) {
            if let Some(window) = limit.window.filter(|_| now >= counter.window.end) {
                *counter = Counter { used: 0, window: Window::containing(window, now) };
            }
        }
    }

    /// The counters of changed limits: each that of the old limit at its position, or a new one.
    pub(super) fn change(&mut self, positions: &[Option<usize>]) {
        let old = std::mem::take(&mut self.all);
        let carried = |at: &Option<usize>| at.and_then(|at| old.get(at).copied()).unwrap_or_default();
        self.all = positions.iter().map(carried).collect();
    }

    /// Whether nothing of what is counted matters any more.
    pub(super) fn are_over(&self, now: u64) -> bool {
        self.in_flight == 0 && self.all.iter().all(|counter| counter.window.end <= now)
    }

    /// Why there is no room for a request. Call [`Counters::roll`] before.
    pub(super) fn closed(
        &self,
        limits: &[QuotaLimit],
        tokens: TokenUse,
        price: Option<Price>,
    ) -> Option<Closed> {
        let closed = limits.iter().zip(&self.all).filter_map(|(limit, counter)| {
            if limit.measure == QuotaMeasure::ConcurrentRequests {
                let is_full = u128::from(self.in_flight) >= limit.amount;
                return is_full.then_some(Closed { limit: *limit, opens_at: None });
            }
            let needed = limit.used_by(tokens, price).min(limit.amount);
            let is_full = needed > 0 && counter.used.saturating_add(needed) > limit.amount;
            is_full.then_some(Closed { limit: *limit, opens_at: Some(counter.window.end) })
        });
        closed.max_by_key(|it| it.opens_at)
    }

    /// Counts a request.
    pub(super) fn take(&mut self, limits: &[QuotaLimit], tokens: TokenUse, price: Option<Price>) {
        self.in_flight += 1;
        for (limit, counter) in limits.iter().zip(&mut self.all) {
            counter.used = counter.used.saturating_add(limit.used_by(tokens, price));
        }
    }

    /// Corrects the counter at a position. A request that was admitted at `admitted` is in it if its window had begun then.
    pub(super) fn correct(&mut self, at: usize, admitted: u64, reserved: u128, used: u128) {
        if let Some(counter) = self.all.get_mut(at).filter(|counter| counter.window.start <= admitted) {
            counter.used = counter.used.saturating_sub(reserved).saturating_add(used);
        }
    }

    /// Call [`Counters::roll`] before. `now`: of the system's clock, which may be behind the windows.
    pub(super) fn standings(&self, limits: &[QuotaLimit], now: u64) -> Vec<QuotaStanding> {
        let standing = |(limit, counter): (&QuotaLimit, &Counter)| {
            let is_concurrent = limit.measure == QuotaMeasure::ConcurrentRequests;
            let used = if is_concurrent { u128::from(self.in_flight) } else { counter.used };
            let seconds = if is_concurrent { 0 } else { counter.window.end.saturating_sub(now) };
            QuotaStanding {
                limit: *limit,
                remaining: limit.amount.saturating_sub(used),
                reset_after: Duration::from_secs(seconds),
            }
        };
        limits.iter().zip(&self.all).map(standing).collect()
    }
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
