//! The numbers of one endpoint that picks compare.
//!
//! Written under the lock of the pool, read by picks without a lock. A pick may see one number from before a report and
//! another from after it; the reservation compares again under the lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A number that may be unknown.
const UNKNOWN: f32 = f32::NAN;

macro_rules! cell {
    ($($(#[$doc:meta])* $name:ident: $type:ty as $atomic:ty),+ $(,)?) => {
        /// The numbers of one endpoint. Seconds, bytes and requests.
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct Numbers {
            $($(#[$doc])* pub(crate) $name: $type,)+
        }

        /// The published [`Numbers`] of one endpoint.
        #[derive(Debug, Default)]
        pub(crate) struct Cell {
            $($name: $atomic,)+
        }

        impl Cell {
            pub(crate) fn store(&self, numbers: &Numbers) {
                $(self.$name.store(numbers.$name.to_bits(), Relaxed);)+
            }

            $($(#[$doc])* pub(crate) fn $name(&self) -> $type {
                <$type>::from_bits(self.$name.load(Relaxed))
            })+
        }
    };
}

cell! {
    /// Own picks whose requests have not ended.
    own_in_flight: f32 as AtomicU32,
    /// Bytes of the prompts of these requests.
    own_prompt_bytes: f32 as AtomicU32,
    /// Uncached bytes of own requests without a first byte.
    own_backlog_bytes: f32 as AtomicU32,
    /// Uncached bytes of the oldest of these requests.
    own_head_bytes: f32 as AtomicU32,
    /// Own requests without a first byte.
    own_waiting: f32 as AtomicU32,
    /// Requests of others, until `foreign_until`.
    foreign_in_flight: f32 as AtomicU32,
    /// Bytes of requests of others without a first byte, until `foreign_until`.
    foreign_backlog_bytes: f32 as AtomicU32,
    /// Requests of others without a first byte, until `foreign_until`.
    foreign_waiting: f32 as AtomicU32,
    /// Prefill of a prompt without uncached bytes.
    prefill_base: f32 as AtomicU32,
    /// Prefill per uncached byte.
    prefill_per_byte: f32 as AtomicU32,
    /// Time per token of a request that runs alone.
    token_base: f32 as AtomicU32,
    /// Additional time per token and request in flight.
    token_per_request: f32 as AtomicU32,
    /// Expected tokens of a response.
    output_tokens: f32 as AtomicU32,
    /// How long the engine is silent when it is well.
    expected_silence: f32 as AtomicU32,
    /// Share of the believed prefix hits that the engine confirms, 0 to 1.
    belief: f32 as AtomicU32,
    /// Running requests according to the engine, until `engine_until`.
    running: f32 as AtomicU32,
    /// The engine's queue, until `engine_until`.
    queued: f32 as AtomicU32,
    /// Used share of the KV cache, 0 to 1, until `engine_until`. NaN: unknown.
    kv_usage: f32 as AtomicU32,
    /// Bytes of prompt that the KV cache can hold. NaN: unknown.
    kv_bytes: f32 as AtomicU32,
    /// When the engine last made progress, or had nothing to do.
    progress_at: f64 as AtomicU64,
    /// When the engine began with the oldest request without a first byte.
    head_since: f64 as AtomicU64,
    /// When the numbers of foreign requests become stale.
    foreign_until: f64 as AtomicU64,
    /// When the engine's gauges become stale.
    engine_until: f64 as AtomicU64,
    /// A lost GPU excludes the endpoint until then.
    lost_until: f64 as AtomicU64,
    /// Failures exclude the endpoint until then.
    failing_until: f64 as AtomicU64,
    /// A stalled engine excludes the endpoint until then.
    stalled_until: f64 as AtomicU64,
    /// An engine that may not work makes the endpoint less preferred until then.
    suspect_until: f64 as AtomicU64,
}

impl Cell {
    /// Requests in flight of all clients.
    pub(crate) fn in_flight(&self, now: f64) -> f32 {
        let foreign = if now <= self.foreign_until() { self.foreign_in_flight() } else { 0.0 };
        self.own_in_flight() + foreign
    }

    /// A number of the engine. `None` if it is unknown or stale.
    pub(crate) fn engine(&self, number: f32, now: f64) -> Option<f32> {
        (now <= self.engine_until() && !number.is_nan()).then_some(number)
    }
}

impl Default for Numbers {
    /// An idle endpoint of which nothing is known.
    fn default() -> Self {
        Self {
            own_in_flight: 0.0,
            own_prompt_bytes: 0.0,
            own_backlog_bytes: 0.0,
            own_head_bytes: 0.0,
            own_waiting: 0.0,
            foreign_in_flight: 0.0,
            foreign_backlog_bytes: 0.0,
            foreign_waiting: 0.0,
            prefill_base: 0.0,
            prefill_per_byte: 0.0,
            token_base: 0.0,
            token_per_request: 0.0,
            output_tokens: 0.0,
            expected_silence: 0.0,
            belief: 1.0,
            running: UNKNOWN,
            queued: UNKNOWN,
            kv_usage: UNKNOWN,
            kv_bytes: UNKNOWN,
            progress_at: f64::NEG_INFINITY,
            head_since: f64::NEG_INFINITY,
            foreign_until: f64::NEG_INFINITY,
            engine_until: f64::NEG_INFINITY,
            lost_until: f64::NEG_INFINITY,
            failing_until: f64::NEG_INFINITY,
            stalled_until: f64::NEG_INFINITY,
            suspect_until: f64::NEG_INFINITY,
        }
    }
}
