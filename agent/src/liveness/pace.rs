//! How long begun responses of an engine may be silent.

use forebay_telemetry::v1::Latency;

pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// Chunks from which a pace is learned.
const MIN_CHUNKS: u64 = 8;
/// Silence of a working engine is shorter, whatever its pace: a prefill of other requests takes up to a step.
const FLOOR_NS: u64 = 2 * SECOND_NS;
/// Limit before a pace is known.
const UNKNOWN_NS: u64 = 10 * SECOND_NS;
/// Multiple of the median time between two chunks.
const MEDIANS: u64 = 30;
/// Multiple of the 95th percentile, which contains interruptions by prefills.
const TAILS: u64 = 10;
/// Bound of the second multiple. An interruption of all responses, once resumed, is in the percentile too.
const MAX_TAIL_NS: u64 = 20 * SECOND_NS;

/// The learned pace. It stays when there are no new chunks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    learned_ns: Option<u64>,
}

impl Pace {
    /// Learns from the times between two chunks.
    pub(super) fn learn(&mut self, itl: &Latency) {
        if itl.count >= MIN_CHUNKS {
            let by_median = itl.p50_ns.saturating_mul(MEDIANS);
            let by_tail = itl.p95_ns.saturating_mul(TAILS).min(MAX_TAIL_NS);
            self.learned_ns = Some(FLOOR_NS.max(by_median).max(by_tail));
        }
    }

    /// Longer silence of begun responses is a stall.
    pub(super) fn limit_ns(self) -> u64 {
        self.learned_ns.unwrap_or(UNKNOWN_NS)
    }

    /// The limit, if it was learned.
    pub(super) fn learned_ns(self) -> Option<u64> {
        self.learned_ns
    }
}
