//! Histograms for readers: the kernel's buckets that are not empty, joined until they are few enough.

use std::ops::Range;

use forebay_agent_ebpf::{
    histogram::{BUCKETS, upper_bound_ns},
    maps::Histogram,
};
use forebay_telemetry::v1;

/// What was counted between two copies of one histogram.
pub(super) fn between(earlier: &Histogram, later: &Histogram) -> v1::Histogram {
    let count = |bucket: u32| later.counts[bucket as usize].saturating_sub(earlier.counts[bucket as usize]);
    let Some(first) = (0..BUCKETS).find(|&bucket| count(bucket) != 0) else {
        return v1::Histogram::default();
    };
    let last = (first..BUCKETS).rev().find(|&bucket| count(bucket) != 0).unwrap_or(first);
    let width = width(first, last);
    let joined = |group: u32| (group * width)..(group * width + width).min(BUCKETS);
    let groups = || (first / width..=last / width).map(joined);
    let start = groups().next().map_or(0, |group: Range<u32>| lower_bound_ns(group.start));
    let ends = groups().map(|group| upper_bound_ns(group.end - 1));
    v1::Histogram {
        bounds_ns: std::iter::once(start).chain(ends).collect(),
        counts: groups().map(|group| group.map(count).sum()).collect(),
    }
}

/// The number of the kernel's buckets that are joined to one. Eight span a power of two, and there are 28 of these.
fn width(first: u32, last: u32) -> u32 {
    let number = |width: u32| (last / width - first / width + 1) as usize;
    [1, 2, 4].into_iter().find(|&width| number(width) <= v1::Histogram::MAX_BUCKETS).unwrap_or(8)
}

fn lower_bound_ns(bucket: u32) -> u64 {
    bucket.checked_sub(1).map_or(0, upper_bound_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_agent_ebpf::histogram::bucket;

    const EMPTY: Histogram = Histogram { sum_ns: 0, counts: [0; BUCKETS as usize] };

    fn of(durations_ns: &[u64]) -> Histogram {
        let mut histogram = EMPTY;
        for duration_ns in durations_ns {
            histogram.counts[bucket(*duration_ns) as usize] += 1;
        }
        histogram
    }

    #[test]
    fn buckets_are_narrow_where_durations_are_near_each_other() {
        let found = between(&of(&[20_000_000]), &of(&[20_000_000, 20_000_000, 21_500_000, 24_000_000]));
        assert_eq!(found.counts.iter().sum::<u64>(), 3, "{found:?}");
        assert!(found.counts.len() <= 4 && found.bounds_ns.len() == found.counts.len() + 1, "{found:?}");
        assert!(found.bounds_ns[0] <= 20_000_000 && *found.bounds_ns.last().unwrap() > 24_000_000);
        assert_eq!(between(&EMPTY, &EMPTY), v1::Histogram::default());
    }

    #[test]
    fn every_duration_is_in_its_bucket_and_the_number_of_buckets_is_bounded() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..2_000 {
            let durations: Vec<u64> = (0..random.usize(1..20)).map(|_| 1 << random.u32(0..41)).collect();
            let spread = random.u64(1..4);
            let durations: Vec<u64> =
                durations.iter().map(|it| it * spread / 2 + random.u64(0..1_000)).collect();
            let found = between(&EMPTY, &of(&durations));
            let (bounds, counts) = (&found.bounds_ns, &found.counts);
            assert!(bounds.is_sorted_by(|one, next| one < next) && counts.len() + 1 == bounds.len());
            assert!(counts.len() <= v1::Histogram::MAX_BUCKETS, "{found:?}");
            assert!(counts[0] != 0 && *counts.last().unwrap() != 0, "{found:?}");
            for (index, count) in counts.iter().enumerate() {
                let is_last = index + 1 == counts.len();
                let is_in = |it: &&u64| bounds[index] <= **it && (**it < bounds[index + 1] || is_last);
                assert_eq!(durations.iter().filter(is_in).count() as u64, *count, "{durations:?} {found:?}");
            }
        }
    }

    #[test]
    fn the_longest_durations_are_in_the_last_bucket() {
        let found = between(&EMPTY, &of(&[1_000, u64::MAX]));
        assert_eq!((found.counts[0], found.counts.last()), (1, Some(&1)));
        assert_eq!(found.counts.len(), 28);
    }
}
