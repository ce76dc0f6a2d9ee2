//! The waiting that one more request causes at an endpoint.
//!
//! All terms are seconds, from speeds that were learned from this endpoint's own responses.
//! With
//!
//! - `u`: uncached bytes of the request's prompt, `b`: uncached bytes of all prompts before it that are not yet computed;
//! - `f + s·x`: time of a prefill of `x` uncached bytes;
//! - `i + j·c`: time per token with `c` requests in flight, `n`: expected tokens of a response;
//! - `d`: requests that are between their first and last byte,
//!
//! the request
//!
//! 1. waits for the prompts before it and its own: `s·b + f + s·u`;
//! 2. delays every request that is being decoded by its prefill: `d·s·u`;
//! 3. takes `n·(i + j·(c+1))` for its tokens, and makes those of the others slower: `n·j·c`;
//!
//!    2 and 3 delay later tokens, not the first one, and count a twentieth ([`LATER_WEIGHT`]);
//!
//! 4. waits for space in the KV cache, if all prompts need more than is free: the missing bytes over the rate at which
//!    ended requests free theirs;
//! 5. waits as long as the engine has been silent for longer than it should be. A frozen engine becomes more expensive
//!    with every second, without a limit that somebody has to choose.
//!
//! Prefix affinity is the small `u` of an endpoint that has the prompt in its cache. Its release valve is `b`, `d` and `c`
//! of the same endpoint: a warm endpoint loses as soon as waiting there costs more than computing the prompt elsewhere. A
//! cold endpoint wins then, becomes warm for that prefix, and both serve it; a prefix is never handed back and forth,
//! because neither forgets it by the other's pick. Picks of a burst see each other, because a pick adds its `u` to `b` of
//! its endpoint before the next one is made.
//!
//! What is assumed without a signal: without a prompt, `u` is 0 everywhere; without measurements, an endpoint has the
//! median speed of its pool; without the kernel's count, `b`, `c` and `d` contain own requests and the engine's gauges;
//! without the engine, KV space is free and a response has 250 tokens.

use super::cell::Cell;

/// The prompt of a request at one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Prompt {
    /// Bytes of the prompt.
    pub(crate) bytes: f32,
    /// Bytes of it that the endpoint is believed to have in its cache.
    pub(crate) matched_bytes: f32,
}

/// A second of delay between two tokens, in seconds of delay before the first. Readers notice less of it, because it is
/// spread over the response. Chosen by `cargo xtask bench routing`: with 0, conversations leave their caches for small gains;
/// with 1, responses in progress count more than first tokens.
const LATER_WEIGHT: f32 = 0.05;

/// Silence up to this multiple of the expected one does not indicate a stall.
const SILENCE_TOLERANCE: f32 = 2.0;

/// Seconds of waiting that the request adds for itself and for all others at the endpoint.
pub(crate) fn added_waiting(cell: &Cell, prompt: Prompt, now: f64) -> f32 {
    let (foreign_in_flight, foreign_backlog, foreign_waiting) = if now <= cell.foreign_until() {
        (cell.foreign_in_flight(), cell.foreign_backlog_bytes(), cell.foreign_waiting())
    } else {
        (0.0, 0.0, 0.0)
    };
    let in_flight = cell.own_in_flight() + foreign_in_flight;
    let decoding = (in_flight - cell.own_waiting() - foreign_waiting).max(0.0);
    let per_byte = cell.prefill_per_byte();
    let uncached = (prompt.bytes - prompt.matched_bytes * cell.belief()).max(0.0);

    let head_seconds = ((now - cell.head_since()).max(0.0) as f32).min(cell.own_head_bytes() * per_byte);
    let backlog = cell.own_backlog_bytes() + foreign_backlog;
    let own = backlog * per_byte - head_seconds + cell.prefill_base() + uncached * per_byte;
    let delay = decoding * uncached * per_byte;
    let tokens =
        cell.output_tokens() * (cell.token_base() + cell.token_per_request() * (2.0 * in_flight + 1.0));
    own + LATER_WEIGHT * (delay + tokens)
        + kv_wait(cell, backlog + uncached, in_flight, now)
        + stall(cell, in_flight, now)
}

fn kv_wait(cell: &Cell, needed: f32, in_flight: f32, now: f64) -> f32 {
    let (Some(usage), Some(capacity)) =
        (cell.engine(cell.kv_usage(), now), cell.engine(cell.kv_bytes(), now))
    else {
        return 0.0;
    };
    let missing = needed - (1.0 - usage) * capacity;
    let used = usage * capacity;
    if missing <= 0.0 || used <= 0.0 {
        return 0.0;
    }
    let response = cell.output_tokens() * (cell.token_base() + cell.token_per_request() * in_flight);
    response * missing / used
}

fn stall(cell: &Cell, in_flight: f32, now: f64) -> f32 {
    if in_flight < 1.0 {
        return 0.0;
    }
    let silence = (now - cell.progress_at()) as f32;
    (silence - SILENCE_TOLERANCE * cell.expected_silence()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::super::cell::Numbers;
    use super::*;

    /// 1 s per 1000 bytes, 10 ms per token and 1 ms more per request, 100 tokens.
    fn numbers() -> Numbers {
        Numbers {
            prefill_per_byte: 0.001,
            token_base: 0.01,
            token_per_request: 0.001,
            output_tokens: 100.0,
            foreign_until: 100.0,
            engine_until: 100.0,
            progress_at: 10.0,
            expected_silence: 1.0,
            ..Numbers::default()
        }
    }

    fn cost(numbers: Numbers, bytes: f32, matched_bytes: f32) -> f32 {
        let cell = Cell::default();
        cell.store(&numbers);
        added_waiting(&cell, Prompt { bytes, matched_bytes }, 10.0)
    }

    fn assert_near(found: f32, expected: f32) {
        assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
    }

    #[test]
    fn an_idle_endpoint_costs_the_uncached_prefill_and_the_tokens() {
        let alone = LATER_WEIGHT * 100.0 * 0.011;
        assert_near(cost(numbers(), 2000.0, 0.0), 2.0 + alone);
        assert_near(cost(numbers(), 2000.0, 1500.0), 0.5 + alone);
        assert_near(cost(Numbers { belief: 0.5, ..numbers() }, 2000.0, 1500.0), 1.25 + alone);
    }

    #[test]
    fn a_warm_endpoint_loses_when_waiting_there_costs_more() {
        let warm = |backlog| cost(Numbers { own_backlog_bytes: backlog, ..numbers() }, 2000.0, 2000.0);
        let cold = cost(numbers(), 2000.0, 0.0);
        assert!(warm(1900.0) < cold && cold < warm(2100.0));
    }

    #[test]
    fn a_prefill_delays_all_requests_that_are_decoded() {
        let busy = Numbers { own_in_flight: 3.0, foreign_in_flight: 2.0, foreign_waiting: 1.0, ..numbers() };
        assert_near(cost(busy, 1000.0, 0.0), 1.0 + LATER_WEIGHT * (4.0 + 100.0 * (0.01 + 0.001 * 11.0)));
        let stale = Numbers { foreign_until: 9.0, ..busy };
        assert_near(cost(stale, 1000.0, 0.0), 1.0 + LATER_WEIGHT * (3.0 + 100.0 * (0.01 + 0.001 * 7.0)));
    }

    #[test]
    fn work_in_progress_is_partly_done() {
        let half_done = Numbers {
            own_backlog_bytes: 4000.0,
            own_head_bytes: 4000.0,
            head_since: 8.0,
            own_waiting: 1.0,
            ..numbers()
        };
        assert_near(cost(half_done, 0.0, 0.0) - cost(numbers(), 0.0, 0.0), 2.0);
        let late = Numbers { head_since: 0.0, ..half_done };
        assert_near(cost(late, 0.0, 0.0) - cost(numbers(), 0.0, 0.0), 0.0);
    }

    #[test]
    fn a_full_cache_and_a_silent_engine_cost_time() {
        let full = Numbers { kv_usage: 0.9, kv_bytes: 10_000.0, ..numbers() };
        assert_near(cost(full, 1000.0, 0.0), cost(numbers(), 1000.0, 0.0));
        assert_near(cost(full, 10_000.0, 0.0) - cost(numbers(), 10_000.0, 0.0), 1.0);
        let silent = Numbers { own_in_flight: 1.0, progress_at: 2.0, ..numbers() };
        let well = Numbers { progress_at: 9.0, ..silent };
        assert_near(cost(silent, 0.0, 0.0) - cost(well, 0.0, 0.0), 6.0);
    }
}
