//! Latencies over a sliding window.

use std::{collections::VecDeque, time::Duration};

use forebay_agent_ebpf::maps::Histogram;

use super::buckets;
use crate::kernel::Quantiles;
use forebay_telemetry::v1::{self, Latency};

/// Interval at which the window advances.
pub(super) const STEP: Duration = Duration::from_secs(5);
/// Length of the window.
const STEPS: usize = 12;

/// The histograms of an endpoint: TTFT, ITL, duration.
pub(super) type Histograms = [Histogram; 3];

/// Latencies of one endpoint over the last [`STEPS`] steps.
pub(super) struct LatencyWindow {
    latencies: [Latency; 3],
    histograms: [v1::Histogram; 3],
    /// Histograms at the start of each step, the oldest first.
    steps: VecDeque<Histograms>,
}

impl LatencyWindow {
    /// A window that starts now.
    pub(super) fn new(now: Option<Histograms>) -> Self {
        Self {
            latencies: Default::default(),
            histograms: Default::default(),
            steps: now.into_iter().collect(),
        }
    }

    /// TTFT, ITL and duration since the start of the window.
    pub(super) fn latencies(&self) -> &[Latency; 3] {
        &self.latencies
    }

    /// The distributions of [`Self::latencies`].
    pub(super) fn histograms(&self) -> &[v1::Histogram; 3] {
        &self.histograms
    }

    /// Takes the current histograms. `advance` starts a new step.
    pub(super) fn update(&mut self, now: Histograms, advance: bool) {
        if let Some(oldest) = self.steps.front() {
            for (kind, latency) in self.latencies.iter_mut().enumerate() {
                *latency = to_proto(Quantiles::between(&oldest[kind], &now[kind]));
                self.histograms[kind] = buckets::between(&oldest[kind], &now[kind]);
            }
        }
        if advance {
            self.steps.push_back(now);
            if self.steps.len() > STEPS {
                self.steps.pop_front();
            }
        }
    }
}

fn to_proto(quantiles: Quantiles) -> Latency {
    let Quantiles { count, sum_ns, p50_ns, p95_ns, p99_ns } = quantiles;
    Latency { count, sum_ns, p50_ns, p95_ns, p99_ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_agent_ebpf::histogram::{BUCKETS, bucket};

    fn histograms(count: u64) -> Histograms {
        let mut counts = [0; BUCKETS as usize];
        counts[bucket(1_000_000) as usize] = count;
        [Histogram { sum_ns: count * 1_000_000, counts }; 3]
    }

    #[test]
    fn window_forgets_what_is_older_than_its_steps() {
        let mut window = LatencyWindow::new(Some(histograms(10)));
        window.update(histograms(15), false);
        assert_eq!(window.latencies()[0].count, 5);
        assert_eq!(window.histograms()[0].counts, [5]);
        for _ in 0..STEPS {
            window.update(histograms(15), true);
        }
        window.update(histograms(15), false);
        assert_eq!(window.latencies().map(|latency| latency.count), [0; 3]);
        assert_eq!(window.histograms(), &[(); 3].map(|()| v1::Histogram::default()));
        window.update(histograms(16), false);
        assert_eq!(window.latencies()[2].count, 1);
    }
}
