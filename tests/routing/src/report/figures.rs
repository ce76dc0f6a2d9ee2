use serde::Serialize;

use crate::{
    router::{Outcome, Time},
    run::{RequestRecord, RunResult},
};

/// Figures of the requests that the router placed. Foreign requests are counted only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub requests: usize,
    pub foreign: usize,
    /// From sending the request to the first byte. Requests without a first byte are not in it; see `timed_out`.
    pub ttft_p50_ms: f64,
    pub ttft_p90_ms: f64,
    pub ttft_p99_ms: f64,
    /// Completed requests, from sending to the last byte.
    pub e2e_p50_ms: f64,
    pub e2e_p90_ms: f64,
    /// Mean time between two tokens of a request, over completed requests.
    pub tpot_p50_ms: f64,
    pub tpot_p90_ms: f64,
    /// Of completed requests, from the first request to the end of the last.
    pub output_tokens_per_s: f64,
    /// Cached share of the prompt tokens of requests with a first byte.
    pub prefix_hit_share: f64,
    pub failed: usize,
    pub timed_out: usize,
    /// Requests of the busiest pod by the mean of all pods.
    pub busiest_pod_ratio: f64,
    pub preemptions: u64,
}

impl Report {
    pub fn of(result: &RunResult) -> Self {
        let own: Vec<_> = result.records.iter().filter(|record| !record.foreign).collect();
        let completed: Vec<_> =
            own.iter().copied().filter(|record| record.outcome == Outcome::Completed).collect();
        let begun: Vec<_> = own.iter().copied().filter(|record| record.first_byte_at.is_some()).collect();
        let ttft = Sorted::of(begun.iter().filter_map(|record| ttft_ms(record)));
        let e2e = Sorted::of(completed.iter().map(|record| ms(record.sent_at, record.ended_at)));
        let tpot = Sorted::of(completed.iter().filter_map(|record| tpot_ms(record)));
        let count = |outcome| own.iter().filter(|record| record.outcome == outcome).count();
        let first = own.iter().map(|record| record.sent_at).min().unwrap_or_default();
        let last = own.iter().map(|record| record.ended_at).max().unwrap_or_default();
        let output: u64 = completed.iter().map(|record| u64::from(record.output_tokens)).sum();
        let sum = |tokens: fn(&RequestRecord) -> u32| -> u64 {
            begun.iter().map(|record| u64::from(tokens(record))).sum()
        };
        let mut per_pod = vec![0_usize; result.pods];
        for record in &own {
            per_pod[record.pod] += 1;
        }
        let busiest = per_pod.iter().copied().max().unwrap_or_default();
        Self {
            requests: own.len(),
            foreign: result.records.len() - own.len(),
            ttft_p50_ms: ttft.at(0.5),
            ttft_p90_ms: ttft.at(0.9),
            ttft_p99_ms: ttft.at(0.99),
            e2e_p50_ms: e2e.at(0.5),
            e2e_p90_ms: e2e.at(0.9),
            tpot_p50_ms: tpot.at(0.5),
            tpot_p90_ms: tpot.at(0.9),
            output_tokens_per_s: ratio(output as f64, (last - first).as_secs_f64()),
            prefix_hit_share: ratio(
                sum(|record| record.cached_tokens) as f64,
                sum(|record| record.prompt_tokens) as f64,
            ),
            failed: count(Outcome::Failed),
            timed_out: count(Outcome::TimedOut),
            busiest_pod_ratio: ratio((busiest * result.pods) as f64, own.len() as f64),
            preemptions: result.preemptions,
        }
    }
}

/// Median, lowest, and highest value over several seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let sorted = Sorted::of(values);
        Self { median: sorted.at(0.5), min: sorted.at(0.0), max: sorted.at(1.0) }
    }
}

/// The reports of one policy in one cell of the benchmark, one per seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub seeds: usize,
    pub ttft_p50_ms: Spread,
    pub ttft_p90_ms: Spread,
    pub ttft_p99_ms: Spread,
    pub e2e_p50_ms: Spread,
    pub e2e_p90_ms: Spread,
    pub output_tokens_per_s: Spread,
    pub prefix_hit_share: Spread,
    pub failed: Spread,
    pub timed_out: Spread,
    pub busiest_pod_ratio: Spread,
}

impl Summary {
    pub fn of(reports: &[Report]) -> Self {
        let spread = |value: fn(&Report) -> f64| Spread::of(reports.iter().map(value));
        Self {
            seeds: reports.len(),
            ttft_p50_ms: spread(|report| report.ttft_p50_ms),
            ttft_p90_ms: spread(|report| report.ttft_p90_ms),
            ttft_p99_ms: spread(|report| report.ttft_p99_ms),
            e2e_p50_ms: spread(|report| report.e2e_p50_ms),
            e2e_p90_ms: spread(|report| report.e2e_p90_ms),
            output_tokens_per_s: spread(|report| report.output_tokens_per_s),
            prefix_hit_share: spread(|report| report.prefix_hit_share),
            failed: spread(|report| report.failed as f64),
            timed_out: spread(|report| report.timed_out as f64),
            busiest_pod_ratio: spread(|report| report.busiest_pod_ratio),
        }
    }
}

fn ms(from: Time, to: Time) -> f64 {
    (to - from).as_secs_f64() * 1e3
}

fn ttft_ms(record: &RequestRecord) -> Option<f64> {
    Some(ms(record.sent_at, record.first_byte_at?))
}

fn tpot_ms(record: &RequestRecord) -> Option<f64> {
    let intervals = record.output_tokens.checked_sub(1).filter(|&intervals| intervals > 0)?;
    Some(ms(record.first_byte_at?, record.ended_at) / f64::from(intervals))
}

/// Zero if nothing was measured.
fn ratio(value: f64, of: f64) -> f64 {
    if of > 0.0 { value / of } else { 0.0 }
}

struct Sorted(Vec<f64>);

impl Sorted {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// Nearest rank. Zero if there are no values.
    fn at(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.0.len() as f64).ceil().max(1.0) as usize;
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}
