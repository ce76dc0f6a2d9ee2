//! The speed of one engine, learned from its responses.

use std::time::{Duration, Instant};

use super::line::{Line, Prior};

/// Assumed until the first endpoint of the pool has responded: an 8-billion-parameter model on one current GPU, about
/// 16,000 prompt tokens per second at 4 bytes per token. Only ratios matter until then.
pub(crate) const DEFAULT_PREFILL: Prior = Prior { base: 0.02, slope: 1.0 / 64_000.0 };
/// Likewise: time per token, and additional time per token and request.
pub(crate) const DEFAULT_TOKEN: Prior = Prior { base: 0.015, slope: 0.0002 };

/// Number of newest measurements that determine a speed, about. A throttled engine has its own speed after as many.
const SAMPLES: f64 = 12.0;
/// Measurements of an endpoint that other endpoints of the pool can start from.
pub(crate) const ENOUGH_SAMPLES: f64 = 3.0;

/// Time of a prefill, as a line over its uncached bytes.
///
/// A measurement is the time between two first bytes, or between an arrival at an idle engine and its first byte, with the
/// work that was finished in it. It holds however the engine orders and batches the prefills.
#[derive(Debug)]
pub(crate) struct PrefillSpeed {
    line: Line,
    /// When the engine began with the work that is measured next. `None`: it has none.
    busy_since: Option<Instant>,
    /// Work of others that was finished since.
    foreign_bytes: f64,
}

impl PrefillSpeed {
    pub(crate) fn new() -> Self {
        Self { line: Line::new(SAMPLES), busy_since: None, foreign_bytes: 0.0 }
    }

    /// A request arrived. Starts a measurement if the engine had no work.
    pub(crate) fn arrived(&mut self, now: Instant) {
        if self.busy_since.is_none() {
            self.busy_since = Some(now);
            self.foreign_bytes = 0.0;
        }
    }

    /// Requests of others got their first bytes.
    pub(crate) fn foreign_finished(&mut self, uncached_bytes: f64) {
        if self.busy_since.is_some() {
            self.foreign_bytes += uncached_bytes;
        }
    }

    /// A request got its first byte. `left`: requests that still wait for theirs.
    pub(crate) fn finished(&mut self, uncached_bytes: f64, left: u64, prior: Prior, now: Instant) {
        if let Some(since) = self.busy_since {
            let took = now.saturating_duration_since(since).as_secs_f64();
            self.line.add(uncached_bytes + self.foreign_bytes, took, prior);
        }
        self.restart(left, now);
    }

    /// A request ended without a first byte, so nothing was measured.
    pub(crate) fn gave_up(&mut self, left: u64, now: Instant) {
        if left == 0 {
            self.restart(left, now);
        }
    }

    fn restart(&mut self, left: u64, now: Instant) {
        self.busy_since = (left > 0).then_some(now);
        self.foreign_bytes = 0.0;
    }

    /// When the engine began with the oldest request.
    pub(crate) fn busy_since(&self) -> Option<Instant> {
        self.busy_since
    }

    /// Seconds: of a prefill without uncached bytes, and per uncached byte.
    pub(crate) fn fit(&self, prior: Prior) -> Prior {
        self.line.fit(prior)
    }

    /// The speed, if there are enough measurements of it.
    pub(crate) fn measured(&self, prior: Prior) -> Option<Prior> {
        (self.line.samples() >= ENOUGH_SAMPLES).then(|| self.fit(prior))
    }
}

/// Time per token, as a line over the requests in flight.
#[derive(Debug)]
pub(crate) struct TokenSpeed {
    line: Line,
    last: Option<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    tokens: u64,
    started: u64,
    decoding: f64,
}

/// Counters of an engine at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenCount {
    pub(crate) tokens: u64,
    pub(crate) started: u64,
    pub(crate) decoding: f64,
    pub(crate) waiting: f64,
}

/// Time between two readings of a counter. Shorter ones have too few tokens.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
const MAX_INTERVAL: Duration = Duration::from_secs(5);

impl TokenSpeed {
    pub(crate) fn new() -> Self {
        Self { line: Line::new(SAMPLES), last: None }
    }

    /// `tokens` and `started` requests: cumulative. `decoding`: requests between their first and last byte. `waiting`: others
    /// in flight.
    pub(crate) fn counted(&mut self, counted: TokenCount, prior: Prior, now: Instant) {
        let TokenCount { tokens, started, decoding, waiting } = counted;
        if waiting > 0.0 || self.last.is_some_and(|last| last.started != started) {
            // A prefill delays tokens. What that costs is not part of the pace.
            self.last = None;
            if waiting > 0.0 {
                return;
            }
        }
        let sample = Sample { at: now, tokens, started, decoding };
        let Some(last) = self.last else {
            self.last = Some(sample);
            return;
        };
        let took = now.saturating_duration_since(last.at);
        if took < MIN_INTERVAL {
            return;
        }
        self.last = Some(sample);
        let mean = f64::midpoint(last.decoding, decoding);
        let more = tokens.saturating_sub(last.tokens) as f64;
        if took <= MAX_INTERVAL && last.decoding >= 1.0 && decoding >= 1.0 && more >= mean {
            self.line.add(mean, mean * took.as_secs_f64() / more, prior);
        }
    }

    /// Seconds per token: alone, and per request in flight.
    pub(crate) fn fit(&self, prior: Prior) -> Prior {
        self.line.fit(prior)
    }

    /// The speed, if there are enough measurements of it.
    pub(crate) fn measured(&self, prior: Prior) -> Option<Prior> {
        (self.line.samples() >= ENOUGH_SAMPLES).then(|| self.fit(prior))
    }
}

/// The median line, by the median of bases and of slopes. `None` without lines.
pub(crate) fn median(lines: impl Iterator<Item = Prior>) -> Option<Prior> {
    let (mut bases, mut slopes): (Vec<f64>, Vec<f64>) = lines.map(|line| (line.base, line.slope)).unzip();
    let middle = bases.len() / 2;
    if bases.is_empty() {
        return None;
    }
    let (_, base, _) = bases.select_nth_unstable_by(middle, f64::total_cmp);
    let (_, slope, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
    Some(Prior { base: *base, slope: *slope })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn learns_the_speed_of_a_queue() {
        let mut speed = PrefillSpeed::new();
        let mut now = Instant::now();
        for round in 1..20 {
            // Three requests at once, finished one after the other at 1000 bytes per second.
            for _ in 0..3 {
                speed.arrived(now);
            }
            for left in (0..3).rev() {
                now += SECOND * round;
                speed.finished(f64::from(round) * 1000.0, left, DEFAULT_PREFILL, now);
            }
            now += SECOND * 100;
        }
        let line = speed.measured(DEFAULT_PREFILL).unwrap();
        assert!((line.slope * 1000.0 - 1.0).abs() < 0.1, "{line:?}");
    }

    #[test]
    fn work_of_others_explains_the_time() {
        let mut speed = PrefillSpeed::new();
        let mut now = Instant::now();
        for round in 1..20_u32 {
            speed.arrived(now);
            speed.foreign_finished(f64::from(round) * 500.0);
            now += SECOND * round;
            speed.finished(f64::from(round) * 500.0, 0, DEFAULT_PREFILL, now);
        }
        let line = speed.measured(DEFAULT_PREFILL).unwrap();
        assert!((line.slope * 1000.0 - 1.0).abs() < 0.1, "{line:?}");
    }

    #[test]
    fn learns_the_pace_over_the_concurrency() {
        let mut speed = TokenSpeed::new();
        let start = Instant::now();
        let mut tokens = 0;
        for n in 0..60_u32 {
            let decoding = 1 + n / 4 % 8;
            // 10 ms per token, and 1 ms more per request.
            tokens += u64::from(decoding) * 1000 / u64::from(10 + decoding);
            let count = TokenCount { tokens, started: 0, decoding: decoding.into(), waiting: 0.0 };
            speed.counted(count, DEFAULT_TOKEN, start + SECOND * n);
        }
        let line = speed.measured(DEFAULT_TOKEN).unwrap();
        assert!((line.at(5.0) - 0.015).abs() < 0.002, "{line:?}");
        assert!(line.slope > 0.0005, "{line:?}");
    }

    #[test]
    fn the_median_ignores_one_odd_endpoint() {
        let line = |slope| Prior { base: 1.0, slope };
        assert_eq!(median([line(1.0), line(50.0), line(1.5)].into_iter()), Some(line(1.5)));
        assert_eq!(median([].into_iter()), None);
    }
}
