//! Log-linear latency buckets: eight per power of two, so a bucket is at most 12.5 % wide. Finding a bucket needs no loop
//! and no table.
//!
//! ```
//! use forebay_agent_ebpf::histogram::{bucket, upper_bound_ns};
//!
//! let index = bucket(12_000_000);
//! assert!(upper_bound_ns(index - 1) <= 12_000_000 && 12_000_000 < upper_bound_ns(index));
//! ```

/// Unit of the buckets: 2^10 ns, about a microsecond.
pub const UNIT_SHIFT: u32 = 10;
/// Buckets per histogram. The last one has no upper bound and starts at about 17 minutes.
pub const BUCKETS: u32 = 224;

const SUB_BITS: u32 = 3;

/// Returns the bucket of a duration.
#[inline(always)]
pub fn bucket(duration_ns: u64) -> u32 {
    let units = duration_ns >> UNIT_SHIFT;
    if units < 1 << SUB_BITS {
        return units as u32;
    }
    let shift = floor_log2(units) - SUB_BITS;
    let index = (shift << SUB_BITS) + (units >> shift) as u32;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// Returns the exclusive upper bound of a bucket, in nanoseconds.
pub fn upper_bound_ns(bucket: u32) -> u64 {
    let next = u64::from(bucket) + 1;
    if next < 1 << (SUB_BITS + 1) {
        return next << UNIT_SHIFT;
    }
    let shift = (next >> SUB_BITS) - 1;
    let mantissa = (next & ((1 << SUB_BITS) - 1)) + (1 << SUB_BITS);
    (mantissa << shift) << UNIT_SHIFT
}

/// BPF has no count-leading-zeros instruction. A branch tree keeps paths short for the verifier.
#[inline(always)]
fn floor_log2(mut value: u64) -> u32 {
    let mut log = 0;
    if value >= 1 << 32 {
        value >>= 32;
        log += 32;
    }
    if value >= 1 << 16 {
        value >>= 16;
        log += 16;
    }
    if value >= 1 << 8 {
        value >>= 8;
        log += 8;
    }
    if value >= 1 << 4 {
        value >>= 4;
        log += 4;
    }
    if value >= 1 << 2 {
        value >>= 2;
        log += 2;
    }
    if value >= 2 { log + 1 } else { log }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_contains_values_between_its_bounds() {
        for index in 0..BUCKETS - 1 {
            let bound = upper_bound_ns(index);
            assert_eq!(bucket(bound - 1), index, "last value of bucket {index}");
            assert_eq!(bucket(bound), index + 1, "first value after bucket {index}");
        }
    }

    #[test]
    fn buckets_are_at_most_an_eighth_wide() {
        for index in 8..BUCKETS - 1 {
            let (low, high) = (upper_bound_ns(index - 1), upper_bound_ns(index));
            assert!((high - low) * 8 <= low, "bucket {index} spans {low}..{high}");
        }
    }

    #[test]
    fn last_bucket_has_no_upper_bound() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!(upper_bound_ns(BUCKETS - 2) > 15 * 60 * 1_000_000_000);
    }
}
