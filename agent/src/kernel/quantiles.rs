//! Quantiles of a histogram.

use forebay_agent_ebpf::{
    histogram::{BUCKETS, upper_bound_ns},
    maps::Histogram,
};

/// Summary of a latency distribution. All durations are 0 if `count` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Number of durations.
    pub count: u64,
    /// Their sum, nanoseconds.
    pub sum_ns: u64,
    /// Upper bound of the bucket of the median, nanoseconds.
    pub p50_ns: u64,
    /// Upper bound of the bucket of the 95th percentile, nanoseconds.
    pub p95_ns: u64,
    /// Upper bound of the bucket of the 99th percentile, nanoseconds.
    pub p99_ns: u64,
}

impl Quantiles {
    /// Summarises what was counted between two copies of one histogram.
    pub fn between(earlier: &Histogram, later: &Histogram) -> Self {
        let counts: Vec<u64> = later
            .counts
            .iter()
            .zip(&earlier.counts)
            .map(|(later, earlier)| later.saturating_sub(*earlier))
            .collect();
        let count: u64 = counts.iter().sum();
        let at = |percent: u64| {
            if count == 0 {
                return 0;
            }
            let rank = (count * percent).div_ceil(100);
            let mut seen = 0;
            for (bucket, counted) in (0_u32..).zip(&counts) {
                seen += counted;
                if seen >= rank {
                    return upper_bound_ns(bucket.min(BUCKETS - 2));
                }
            }
            0
        };
        Self {
            count,
            sum_ns: later.sum_ns.saturating_sub(earlier.sum_ns),
            p50_ns: at(50),
            p95_ns: at(95),
            p99_ns: at(99),
        }
    }
}
