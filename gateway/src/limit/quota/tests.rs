//! Quotas against a plain model, and the rules that the model does not have.

use std::sync::Arc;
use std::time::Duration;

use forebay_openai::Usage;
use forebay_resources::{ObjectKey, QuotaMode, QuotaWindow, TokenCount};
use forebay_routing::{QuotaLimit, QuotaMeasure};
use proptest::prelude::*;

use super::share::{Share, Shares};
use super::state::Request;
use super::stored::StoredQuota;
use super::window::Window;
use super::*;
use crate::limit::estimate::Expected;
use crate::limit::served::Served;

const ENFORCE: QuotaMode = QuotaMode::Enforce;
/// 2026-11-28T00:00:00Z
const START: u64 = 1_795_824_000;
const DAY: u64 = 24 * 3600;

fn limit(measure: QuotaMeasure, amount: u128, window: QuotaWindow) -> QuotaLimit {
    QuotaLimit { measure, amount, window: Some(window) }
}

fn requests(amount: u128) -> QuotaLimit {
    limit(QuotaMeasure::Requests, amount, QuotaWindow::Day)
}

fn tokens(amount: u128) -> QuotaLimit {
    limit(QuotaMeasure::Tokens(TokenCount::Total), amount, QuotaWindow::Day)
}

fn concurrent(amount: u128) -> QuotaLimit {
    QuotaLimit { measure: QuotaMeasure::ConcurrentRequests, amount, window: None }
}

fn state(limits: &[QuotaLimit], max_values: usize) -> Arc<QuotaState> {
    Arc::new(QuotaState::with_values(ObjectKey::new("ns", "q"), limits, max_values, None))
}

/// Reserves exactly this many tokens.
fn expected(tokens: u64) -> Expected {
    Expected { model: None, body_bytes: 0, max_output: Some(tokens) }
}

fn take(
    state: &Arc<QuotaState>,
    value: Option<&str>,
    reserved: u64,
    now: u64,
) -> Result<QuotaTaken, Box<QuotaExceeded>> {
    let expected = expected(reserved);
    state.take_here(&Request { mode: ENFORCE, value, price: None, expected: Some(&expected), now })
}

fn used(tokens: u64) -> Served {
    Served::Reported(Usage { prompt_tokens: Some(0), completion_tokens: Some(tokens), ..Usage::default() })
}

fn remaining(state: &QuotaState, value: Option<&str>, now: u64) -> Vec<u128> {
    state.standings_here(value, now).iter().map(|it| it.remaining).collect()
}

#[test]
fn the_next_window_opens_the_limit_and_the_answer_says_when() {
    let state = state(&[requests(9), limit(QuotaMeasure::Requests, 1, QuotaWindow::Month), requests(1)], 9);
    let now = START + 100;
    take(&state, None, 1, now).unwrap().settle(used(1), None);
    let exceeded = take(&state, None, 1, now).unwrap_err();
    assert_eq!(
        exceeded.to_string(),
        "the limit of 1 request per month (Quota ns/q) is reached; it opens at 2026-12-01T00:00:00Z, try again in 259100 s"
    );
    assert_eq!((exceeded.opens_at, exceeded.retry_after.as_secs()), (Some(START + 3 * DAY), 3 * DAY - 100));
    let shown: Vec<_> =
        exceeded.standings.iter().map(|it| (it.limit, it.remaining, it.reset_after.as_secs())).collect();
    assert_eq!(shown, [(9, 8, DAY - 100), (1, 0, 3 * DAY - 100), (1, 0, DAY - 100)]);
    assert!(take(&state, None, 1, START + 3 * DAY - 1).is_err());
    assert!(take(&state, None, 1, START + 3 * DAY).is_ok());
}

#[test]
fn a_clock_that_goes_back_does_not_open_a_window_twice() {
    let state = state(&[requests(1)], 9);
    drop(take(&state, None, 1, START).unwrap());
    drop(take(&state, None, 1, START + DAY).unwrap());
    let exceeded = take(&state, None, 1, START).unwrap_err();
    assert_eq!(exceeded.retry_after.as_secs(), 2 * DAY, "until the end of the window that is in use");
    assert!(take(&state, None, 1, START + DAY + 5).is_err());
    assert!(take(&state, None, 1, START + 2 * DAY).is_ok());
}

#[test]
fn a_request_counts_in_the_window_in_which_it_was_admitted() {
    let state = state(&[tokens(100)], 9);
    let long = take(&state, None, 60, START + DAY - 1).unwrap();
    assert!(take(&state, None, 60, START + DAY - 1).is_err());
    let next = take(&state, None, 60, START + DAY).unwrap();
    long.settle(used(5000), None);
    assert_eq!(remaining(&state, None, START + DAY), [40], "the overrun stays in the window before");
    next.settle(used(10), None);
    assert_eq!(remaining(&state, None, START + DAY), [90]);
}

#[test]
fn a_request_above_the_whole_limit_is_admitted_in_an_unused_window() {
    let state = state(&[tokens(100)], 9);
    let large = take(&state, None, 500, START).unwrap();
    assert!(take(&state, None, 1, START).is_err());
    large.settle(used(40), None);
    assert!(take(&state, None, 500, START).is_err(), "the window is used now");
    assert!(take(&state, None, 60, START).is_ok());
}

#[test]
fn concurrent_requests_are_freed_exactly_once_however_they_end() {
    let state = state(&[concurrent(2)], 9);
    for served in
        [None, Some(Served::Failed), Some(Served::NotAdmitted), Some(Served::Unknown), Some(used(1))]
    {
        let (first, second) = (take(&state, None, 1, START).unwrap(), take(&state, None, 1, START).unwrap());
        let exceeded = take(&state, None, 1, START).unwrap_err();
        assert_eq!(
            exceeded.to_string(),
            "the limit of 2 requests at the same time (Quota ns/q) is reached; try again when one of them has ended"
        );
        assert_eq!((exceeded.opens_at, exceeded.retry_after.as_secs()), (None, 1));
        match served {
            Some(served) => first.settle(served, None),
            None => drop(first),
        }
        assert_eq!(remaining(&state, None, START), [1], "{served:?}");
        drop(second);
        assert_eq!(remaining(&state, None, START), [2], "{served:?}");
    }
}

#[test]
fn values_have_counters_of_their_own_up_to_a_number() {
    let state = state(&[requests(1)], 2);
    let is_open = |value: Option<&str>, now| take(&state, value, 1, now).map(|taken| taken.is_crowded_out());
    assert!(!is_open(Some("a"), START).unwrap());
    assert!(is_open(Some("a"), START).is_err());
    assert!(!is_open(Some("b"), START).unwrap());
    // Forgetting one of them would open its window again.
    assert!(is_open(Some("c"), START).unwrap(), "it shares counters");
    let shared = is_open(Some("d"), START).unwrap_err();
    assert!(shared.is_crowded_out);
    assert!(is_open(None, START).is_err(), "also with requests without a value");
    assert!(is_open(Some("a"), START).is_err() && is_open(Some("b"), START).is_err());
    // In the next window, the least recently used one is forgotten.
    assert!(!is_open(Some("d"), START + DAY).unwrap());
    assert!(!is_open(Some("b"), START + DAY).unwrap());
    assert!(is_open(Some("d"), START + DAY).is_err());
    assert!(is_open(Some("a"), START + DAY).unwrap());
    let long = "x".repeat(257);
    assert!(take(&state, Some(&long), 1, START + DAY).is_err(), "too long for counters of its own");
}

#[test]
fn counters_of_requests_in_flight_are_not_forgotten() {
    let state = state(&[concurrent(1)], 1);
    let first = take(&state, Some("a"), 1, START).unwrap();
    let second = take(&state, Some("b"), 1, START).unwrap();
    assert!(second.is_crowded_out());
    assert!(take(&state, Some("a"), 1, START).is_err());
    drop(first);
    assert!(!take(&state, Some("c"), 1, START).unwrap().is_crowded_out());
    drop(second);
    assert_eq!(remaining(&state, None, START), [1]);
}

#[test]
fn a_change_keeps_what_limits_of_the_same_kind_have_counted() {
    let state = state(&[requests(5), tokens(100)], 9);
    let in_flight = take(&state, Some("a"), 30, START).unwrap();
    let output = limit(QuotaMeasure::Tokens(TokenCount::Output), 100, QuotaWindow::Day);
    state.change(&[output, tokens(50), requests(7)]);
    assert_eq!(remaining(&state, Some("a"), START), [100, 20, 6]);
    // The new limit has not counted it.
    in_flight.settle(used(10), None);
    assert_eq!(remaining(&state, Some("a"), START), [100, 40, 6]);
    take(&state, Some("a"), 30, START).unwrap().settle(used(9), None);
    assert_eq!(remaining(&state, Some("a"), START), [91, 31, 5]);
}

/// The states of gateways that divide limits.
fn divided(limits: &[QuotaLimit], gateways: u64) -> Vec<Arc<QuotaState>> {
    let share = |rank| {
        let mut shares = Shares::new(Duration::ZERO);
        shares.change(Share::new(gateways, rank), 0);
        let state = state(limits, 9);
        state.divide(&Arc::new(shares));
        state
    };
    (0..gateways).map(share).collect()
}

#[test]
fn gateways_without_a_store_together_admit_the_limit() {
    for gateways in 1..8 {
        let states = divided(&[requests(5)], gateways);
        let asked = states.iter().cycle().take(70);
        let admitted = asked.filter(|state| take(state, None, 1, START).is_ok()).count();
        assert_eq!(admitted, 5, "{gateways} gateways");
    }
    for gateways in 1..8 {
        let states = divided(&[concurrent(5)], gateways);
        let taken: Vec<_> =
            states.iter().cycle().take(70).filter_map(|it| take(it, None, 1, START).ok()).collect();
        assert_eq!(taken.len(), 5, "{gateways} gateways");
    }
}

#[test]
fn a_share_says_so_and_one_of_nothing_admits_nothing() {
    let states = divided(&[tokens(10)], 4);
    assert_eq!(states.iter().map(|it| remaining(it, None, START)[0]).collect::<Vec<_>>(), [3, 3, 2, 2]);
    take(&states[0], None, 3, START).unwrap().settle(used(3), None);
    let exceeded = take(&states[0], None, 1, START + 100).unwrap_err();
    assert_eq!(
        exceeded.to_string(),
        "the share of this gateway, 3 of the limit of 10 tokens per day (Quota ns/q) is reached; \
         it opens at 2026-11-29T00:00:00Z, try again in 86300 s"
    );
    // As with a whole limit: a request that needs more than the share is admitted in an unused window.
    let large = take(&states[1], None, 7, START).unwrap();
    assert!(take(&states[1], None, 1, START).is_err());
    drop(large);
    let states = divided(&[tokens(1)], 2);
    for needed in [1, 7] {
        let exceeded = take(&states[1], None, needed, START).unwrap_err();
        assert_eq!((exceeded.opens_at, exceeded.retry_after.as_secs()), (None, 1));
        assert!(exceeded.to_string().ends_with("try again, another gateway may have room"), "{exceeded}");
    }
    assert!(take(&states[0], None, 1, START).is_ok());
}

#[test]
fn another_number_of_gateways_keeps_what_was_counted() {
    let mut registry = QuotaRegistry::new(None, None, Duration::ZERO);
    let state = state(&[requests(9)], 9);
    let divide = |registry: &QuotaRegistry| state.divide(registry.shares());
    for _ in 0..4 {
        drop(take(&state, None, 1, unix_seconds()).unwrap());
    }
    registry.divide(Share::new(2, 1));
    divide(&registry);
    assert_eq!(remaining(&state, None, unix_seconds()), [0], "4 of 9 were used");
    assert_eq!(remaining(&state, None, unix_seconds() + DAY), [4], "the next window");
    registry.divide(Share::WHOLE);
    divide(&registry);
    assert_eq!(remaining(&state, None, unix_seconds()), [0], "what the other one used is not granted again");
    assert_eq!(remaining(&state, None, unix_seconds() + DAY), [9]);
}

#[test]
fn what_was_used_is_restored_in_its_window() {
    let limits = [
        requests(9),
        tokens(100),
        limit(QuotaMeasure::Requests, 9, QuotaWindow::Month),
        requests(5),
        concurrent(3),
    ];
    let before = state(&limits, 9);
    take(&before, Some("a"), 30, START).unwrap().settle(used(20), None);
    let in_flight = take(&before, Some("a"), 30, START).unwrap();
    take(&before, None, 30, START).unwrap().settle(used(7), None);
    let stored = before.stored();
    let restored = |limits: &[QuotaLimit], now| {
        let state = state(limits, 9);
        state.restore(&stored, now);
        state
    };
    let after = restored(&limits, START + 5);
    assert_eq!(remaining(&after, Some("a"), START + 5), [8, 80, 8, 4, 3], "not what was in flight");
    assert_eq!(remaining(&after, None, START + 5), [8, 93, 8, 4, 3]);
    assert_eq!(remaining(&after, Some("b"), START + 5), [9, 100, 9, 5, 3]);
    assert_eq!(after.stored(), StoredQuota { latest: START, ..stored.clone() });
    drop(in_flight);
    // The next day, other limits, and an amount that is less than what was used.
    assert_eq!(remaining(&restored(&limits, START + DAY), Some("a"), START + DAY), [9, 100, 8, 5, 3]);
    let output = limit(QuotaMeasure::Tokens(TokenCount::Output), 100, QuotaWindow::Day);
    assert_eq!(
        remaining(&restored(&[output, tokens(10), requests(2)], START), Some("a"), START),
        [100, 0, 1]
    );
    // What was counted for a value that has no counters of its own stays counted.
    let crowded = state(&limits, 0);
    crowded.restore(&stored, START);
    assert_eq!(remaining(&crowded, Some("a"), START), [7, 73, 7, 3, 3]);
}

#[test]
fn a_clock_that_was_ahead_before_a_restart_does_not_close_limits() {
    let before = state(&[requests(1)], 9);
    drop(take(&before, None, 1, START + DAY).unwrap());
    let restored = |now| {
        let state = state(&[requests(1)], 9);
        state.restore(&before.stored(), now);
        state
    };
    // A little behind: the window is not opened twice.
    let behind = restored(START + DAY - 200);
    assert!(take(&behind, None, 1, START + DAY - 200).is_err());
    // Far behind: the window has not begun.
    let far_behind = restored(START);
    assert!(take(&far_behind, None, 1, START).is_ok());
    assert!(take(&far_behind, None, 1, START + DAY).is_ok());
}

#[test]
fn a_quota_that_warns_counts_and_admits() {
    let state = state(&[requests(1)], 9);
    let request = Request { mode: QuotaMode::Warn, value: None, price: None, expected: None, now: START };
    let taken = |state: &Arc<QuotaState>| state.take_here(&request).unwrap();
    let (first, second) = (taken(&state), taken(&state));
    assert_eq!((first.is_above(), second.is_above()), (false, true));
    assert!(second.standings().next().is_none(), "headers are about limits that bind");
    assert_eq!(remaining(&state, None, START), [0]);
}

/// What a request does in the model.
#[derive(Clone, Debug)]
enum Step {
    /// With an estimate, for one of the values.
    Take(u64, usize),
    /// The oldest request in flight ends with so many tokens. `None`: another limit had no room.
    End(Option<u64>),
    /// Seconds, forwards or backwards.
    Clock(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..60, 0_usize..3).prop_map(|(estimate, value)| Step::Take(estimate, value)),
        3 => prop::option::weighted(0.9, 0_u64..90).prop_map(Step::End),
        1 => (-40_i64..90).prop_map(Step::Clock),
    ]
}

/// A request that was admitted. Amounts are estimates until it ends.
#[derive(Clone, Copy, Debug)]
struct Counted {
    value: usize,
    admitted: u64,
    tokens: u64,
    requests: u64,
    is_in_flight: bool,
}

/// All requests that were ever admitted; nothing is summed up in advance.
#[derive(Debug, Default)]
struct Model(Vec<Counted>);

impl Model {
    fn sum(&self, value: usize, window: Window, of: impl Fn(&Counted) -> u64) -> u64 {
        let in_window =
            |it: &&Counted| it.value == value && (window.start..window.end).contains(&it.admitted);
        self.0.iter().filter(in_window).map(of).sum()
    }
}

proptest! {
    /// The quota admits a request exactly if the model has room in all windows, and a window is overrun by at most what
    /// requests in flight used above their estimates.
    #[test]
    fn quotas_do_what_the_plain_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let limits = [
            limit(QuotaMeasure::Requests, 6, QuotaWindow::Minute),
            limit(QuotaMeasure::Tokens(TokenCount::Total), 100, QuotaWindow::Minute),
            limit(QuotaMeasure::Tokens(TokenCount::Output), 400, QuotaWindow::Hour),
            concurrent(3),
        ];
        let names = [None, Some("a"), Some("b")];
        let state = state(&limits, 9);
        let (mut model, mut in_flight, mut above) = (Model::default(), Vec::new(), 0);
        let (mut now, mut latest) = (START, 0);
        for step in steps {
            match step {
                Step::Clock(seconds) => now = now.saturating_add_signed(seconds),
                Step::Take(estimate, value) => {
                    latest = latest.max(now);
                    let minute = Window::containing(QuotaWindow::Minute, latest);
                    let hour = Window::containing(QuotaWindow::Hour, latest);
                    let tokens = |window| model.sum(value, window, |it| it.tokens);
                    let has_tokens = |used: u64, limit: u64| estimate == 0 || used + estimate.min(limit) <= limit;
                    let running = model.0.iter().filter(|it| it.value == value && it.is_in_flight).count();
                    let fits = model.sum(value, minute, |it| it.requests) < 6
                        && has_tokens(tokens(minute), 100)
                        && has_tokens(tokens(hour), 400)
                        && running < 3;
                    let taken = take(&state, names[value], estimate, now);
                    prop_assert_eq!(taken.is_ok(), fits, "{:?}", taken);
                    match taken {
                        Ok(taken) => {
                            in_flight.push((model.0.len(), taken));
                            let counted =
                                Counted { value, admitted: latest, tokens: estimate, requests: 1, is_in_flight: true };
                            model.0.push(counted);
                        }
                        Err(exceeded) => {
                            let opens_at = exceeded.opens_at.unwrap_or(now + 1);
                            prop_assert_eq!(exceeded.retry_after.as_secs(), opens_at - now);
                        }
                    }
                }
                Step::End(_) if in_flight.is_empty() => {}
                Step::End(actual) => {
                    let (at, taken) = in_flight.remove(0);
                    let counted = &mut model.0[at];
                    counted.is_in_flight = false;
                    match actual {
                        Some(actual) => {
                            above += actual.saturating_sub(counted.tokens);
                            counted.tokens = actual;
                            taken.settle(used(actual), None);
                        }
                        None => {
                            (counted.tokens, counted.requests) = (0, 0);
                            taken.settle(Served::NotAdmitted, None);
                        }
                    }
                }
            }
            for (value, name) in names.iter().enumerate() {
                let minute = Window::containing(QuotaWindow::Minute, latest.max(now));
                let spent = model.sum(value, minute, |it| it.tokens);
                prop_assert!(spent <= 100 + above, "{spent} of 100, {above} above estimates");
                let left = remaining(&state, *name, now);
                prop_assert_eq!(left[1], u128::from(100_u64.saturating_sub(spent)));
            }
        }
    }
}
