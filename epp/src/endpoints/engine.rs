//! The engine's own metrics, and what follows from their changes.

use std::time::{Duration, Instant};

/// Maximum age of the engine's gauges. Engines update them only every few seconds.
pub(super) const ENGINE_STALE_AFTER: Duration = Duration::from_secs(5);

/// Gauges and counters that the engine exports.
#[derive(Clone, Copy, Debug)]
pub(super) struct EngineGauges {
    pub(super) running: u32,
    pub(super) waiting: u32,
    pub(super) kv_usage: Option<f64>,
    pub(super) prompt_tokens: u64,
    pub(super) prefix_queries: u64,
    pub(super) prefix_hits: u64,
    pub(super) generated_tokens: u64,
    /// Requests that ended.
    pub(super) ended_requests: u64,
    /// Tokens that the KV cache can hold.
    pub(super) cache_tokens: Option<u64>,
    /// When the values were last confirmed, on the local clock.
    pub(super) measured: Instant,
}

/// What two readings of an engine's metrics tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// The counters started again: the cache is empty.
    pub(super) has_restarted: bool,
    /// It computed tokens.
    pub(super) has_progressed: bool,
    pub(super) generated_tokens: f64,
    pub(super) ended_requests: f64,
}

/// Sums of which old parts lose weight.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    over: f64,
    under: f64,
}

/// What an earlier part of a sum still weighs after one more reading.
const KEEP: f64 = 0.9;
/// Assumed bytes per token until it is measured.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Weight of the assumptions, in bytes and in tokens.
const PRIOR_BYTES: f64 = 65_536.0;
const PRIOR_TOKENS: f64 = 4_096.0;
/// Assumed bytes of a request before there was one.
const BODY_BYTES: f64 = 2_048.0;

impl Ratio {
    fn add(&mut self, over: f64, under: f64) {
        self.over = self.over * KEEP + over;
        self.under = self.under * KEEP + under;
    }
}

/// Prefix hits of an engine since its endpoint was added, in bytes of prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PrefixHits {
    /// What the prefix index expected of own picks.
    pub predicted_bytes: f64,
    /// What the engine counted of all requests, in the same time.
    pub measured_bytes: f64,
}

/// The last gauges of an engine.
#[derive(Debug)]
pub(crate) struct EngineView {
    gauges: Option<EngineGauges>,
    /// Prefix hits in bytes: measured over predicted.
    hits: Ratio,
    all_hits: PrefixHits,
    /// Hits that were predicted since the last reading.
    predicted_bytes: f64,
    /// Bytes of requests over tokens of prompts.
    bytes_per_token: Ratio,
    bytes_in: Option<u64>,
    /// Tokens: not in the cache over all.
    uncached: Ratio,
    mean_body_bytes: f64,
}

impl Default for EngineView {
    fn default() -> Self {
        Self {
            gauges: None,
            hits: Ratio { over: 0.0, under: 0.0 },
            all_hits: PrefixHits::default(),
            predicted_bytes: 0.0,
            bytes_per_token: Ratio { over: 0.0, under: 0.0 },
            bytes_in: None,
            uncached: Ratio { over: 0.0, under: 0.0 },
            mean_body_bytes: BODY_BYTES,
        }
    }
}

impl EngineView {
    pub(super) fn gauges(&self) -> Option<&EngineGauges> {
        self.gauges.as_ref()
    }

    pub(super) fn fresh(&self, now: Instant) -> Option<&EngineGauges> {
        let is_fresh = |gauges: &&EngineGauges| age(now, gauges.measured) <= ENGINE_STALE_AFTER;
        self.gauges.as_ref().filter(is_fresh)
    }

    pub(super) fn forget(&mut self) {
        self.gauges = None;
    }

    /// The values were unchanged at `measured`.
    pub(super) fn confirm(&mut self, measured: Instant) {
        if let Some(gauges) = &mut self.gauges {
            gauges.measured = gauges.measured.max(measured);
        }
    }

    /// Whether the values are those of an earlier reading: a report on the pod repeats them.
    pub(super) fn has_read(&self, gauges: &EngineGauges) -> bool {
        self.gauges.as_ref().is_some_and(|last| gauges.measured <= last.measured)
    }

    /// Takes new values. `bytes_in`: bytes of requests that the kernel counted.
    pub(super) fn read(&mut self, gauges: EngineGauges, bytes_in: Option<u64>) -> Reading {
        let before = self.gauges.replace(gauges);
        let Some(before) = before else {
            self.bytes_in = bytes_in;
            return Reading::default();
        };
        if gauges.prompt_tokens < before.prompt_tokens {
            *self = Self {
                gauges: Some(gauges),
                bytes_in,
                mean_body_bytes: self.mean_body_bytes,
                all_hits: self.all_hits,
                ..Self::default()
            };
            return Reading { has_restarted: true, ..Reading::default() };
        }
        let tokens = (gauges.prompt_tokens - before.prompt_tokens) as f64;
        if tokens > 0.0 {
            let bytes_before = std::mem::replace(&mut self.bytes_in, bytes_in);
            if let (Some(bytes), Some(bytes_before)) = (bytes_in, bytes_before) {
                self.bytes_per_token.add(bytes.saturating_sub(bytes_before) as f64, tokens);
            }
        }
        let queries = gauges.prefix_queries.saturating_sub(before.prefix_queries) as f64;
        let hits = gauges.prefix_hits.saturating_sub(before.prefix_hits) as f64;
        if queries > 0.0 {
            self.uncached.add((queries - hits).max(0.0), queries);
            let (measured, predicted) =
                (hits * self.bytes_per_token(), std::mem::take(&mut self.predicted_bytes));
            self.hits.add(measured, predicted);
            self.all_hits.measured_bytes += measured;
            self.all_hits.predicted_bytes += predicted;
        }
        Reading {
            has_restarted: false,
            has_progressed: tokens > 0.0 || gauges.generated_tokens > before.generated_tokens,
            generated_tokens: gauges.generated_tokens.saturating_sub(before.generated_tokens) as f64,
            ended_requests: gauges.ended_requests.saturating_sub(before.ended_requests) as f64,
        }
    }

    /// A request was sent to the engine.
    pub(super) fn picked(&mut self, body_bytes: u64) {
        if body_bytes > 0 {
            self.mean_body_bytes += 0.1 * (body_bytes as f64 - self.mean_body_bytes);
        }
    }

    /// The engine has looked for a prefix that it is believed to have.
    pub(super) fn predicted_hit(&mut self, bytes: u64) {
        self.predicted_bytes += bytes as f64;
    }

    pub(super) fn mean_body_bytes(&self) -> f64 {
        self.mean_body_bytes.max(1.0)
    }

    pub(super) fn bytes_per_token(&self) -> f64 {
        let Ratio { over, under } = self.bytes_per_token;
        ((over + BYTES_PER_TOKEN * PRIOR_TOKENS) / (under + PRIOR_TOKENS)).clamp(0.5, 64.0)
    }

    pub(super) fn prefix_hits(&self) -> PrefixHits {
        self.all_hits
    }

    /// Share of the predicted hits that the engine counted, 0 to 1.
    pub(super) fn belief(&self) -> f64 {
        ((self.hits.over + PRIOR_BYTES) / (self.hits.under + PRIOR_BYTES)).min(1.0)
    }

    /// Share of the prompts that was not in the cache, 0 to 1.
    pub(super) fn uncached_share(&self) -> f64 {
        let Ratio { over, under } = self.uncached;
        (over + PRIOR_TOKENS) / (under + PRIOR_TOKENS)
    }

    /// Bytes of prompt that the KV cache can hold.
    pub(super) fn capacity_bytes(&self) -> Option<f64> {
        let tokens = self.gauges.as_ref()?.cache_tokens?;
        Some(tokens as f64 * self.bytes_per_token())
    }
}

fn age(now: Instant, measured: Instant) -> Duration {
    now.saturating_duration_since(measured)
}
