//! Histograms of latencies.

use std::time::Duration;

use crate::v1::{EndpointLatencies, Histogram};

const MAX_BUCKETS: usize = Histogram::MAX_BUCKETS;

/// Durations from a bound to below another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The shortest of them.
    pub from: Duration,
    /// Longer than all of them.
    pub to: Duration,
    /// Their number.
    pub count: u64,
}

impl Histogram {
    /// Maximum buckets of a histogram.
    pub const MAX_BUCKETS: usize = 32;

    /// The buckets, the shortest durations first, up to the first that is not valid.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        let bounds = self.bounds_ns.windows(2).take(MAX_BUCKETS).take_while(|bounds| bounds[0] < bounds[1]);
        bounds.zip(&self.counts).map(|(bounds, &count)| Bucket {
            from: Duration::from_nanos(bounds[0]),
            to: Duration::from_nanos(bounds[1]),
            count,
        })
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl EndpointLatencies {
    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.all().all(Histogram::is_empty)
    }

    /// Whether no histogram has more than the maximum of buckets.
    pub(crate) fn is_bounded(&self) -> bool {
        self.all().all(|it| it.bounds_ns.len() <= MAX_BUCKETS + 1 && it.counts.len() <= MAX_BUCKETS)
    }

    fn all(&self) -> impl Iterator<Item = &Histogram> {
        [&self.ttft, &self.itl, &self.duration].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_end_at_the_first_that_is_not_valid() {
        let of = |bounds_ns: &[u64], counts: &[u64]| {
            let histogram = Histogram { bounds_ns: bounds_ns.to_vec(), counts: counts.to_vec() };
            histogram.buckets().map(|it| (it.from.as_nanos(), it.to.as_nanos(), it.count)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[10, 20, 40], &[3, 0]), [(10, 20, 3), (20, 40, 0)]);
        assert_eq!(of(&[10, 20, 20, 40], &[3, 0, 1]), [(10, 20, 3)]);
        assert_eq!(of(&[10, 20, 40], &[3]), [(10, 20, 3)]);
        assert_eq!((of(&[10], &[3]), of(&[], &[])), (vec![], vec![]));
        let many: Vec<u64> = (0..1000).collect();
        assert_eq!(of(&many, &many).len(), MAX_BUCKETS);
    }
}
