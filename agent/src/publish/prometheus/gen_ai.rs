//! Latencies that the kernel measured, under the names of OpenTelemetry's conventions for generative AI (model server
//! metrics), as cumulative histograms.
//!
//! The bounds are those of the conventions, and more for slower servers. The kernel's buckets are finer, but have other
//! bounds: each bound counts the kernel's buckets up to the one that ends next to it, at most 1/16 away.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use forebay_agent_ebpf::{
    histogram::{BUCKETS, upper_bound_ns},
    maps::Histogram,
};
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{super::LatencyHistograms, ports, with_labels};
use forebay_telemetry::v1::Endpoint;

struct GenAiMetric {
    name: &'static str,
    help: &'static str,
    seconds: &'static [f64],
    histogram: fn(&LatencyHistograms) -> &Histogram,
}

const METRICS: [GenAiMetric; 3] = [
    GenAiMetric {
        name: "gen_ai_server_time_to_first_token",
        help: "First request byte to first content byte, of POST requests of all clients, measured in the kernel.",
        seconds: &[
            0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
            40.0, 80.0, 160.0,
        ],
        histogram: |histograms| &histograms.ttft,
    },
    GenAiMetric {
        name: "gen_ai_server_time_per_output_token",
        help: "Between two chunks of one response, measured in the kernel. A chunk has one or a few tokens.",
        seconds: &[
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
        ],
        histogram: |histograms| &histograms.itl,
    },
    GenAiMetric {
        name: "gen_ai_server_request_duration",
        help: "First request byte to last response byte, of POST requests of all clients, measured in the kernel.",
        seconds: &[
            0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
            327.68, 655.36,
        ],
        histogram: |histograms| &histograms.duration,
    },
];

/// Endpoints that the kernel does not measure now have no series.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    endpoints: &[Endpoint],
    histograms: &BTreeMap<SocketAddr, Arc<LatencyHistograms>>,
) -> fmt::Result {
    let ports = ports(endpoints);
    for metric in &METRICS {
        let unit = Unit::Other("seconds".into());
        let mut encoder =
            encoder.encode_descriptor(metric.name, metric.help, Some(&unit), MetricType::Histogram)?;
        let ends: Vec<usize> = metric.seconds.iter().map(|&seconds| nearest_end(seconds)).collect();
        for (endpoint, mut labels) in with_labels(endpoints, &ports) {
            if endpoint.kernel.is_none() {
                continue;
            }
            let Some(histograms) = address(endpoint).and_then(|address| histograms.get(&address)) else {
                continue;
            };
            labels.extend(histograms.model.as_deref().map(|model| ("gen_ai_request_model", model)));
            let histogram = (metric.histogram)(histograms);
            let buckets = fold(histogram, metric.seconds, &ends);
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = histogram.sum_ns as f64 / 1e9;
            encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
    }
    Ok(())
}

fn address(endpoint: &Endpoint) -> Option<SocketAddr> {
    let key = endpoint.key.as_ref()?;
    Some(SocketAddr::new(key.ip.parse().ok()?, key.port.try_into().ok()?))
}

/// Number of the kernel's buckets below the bound of them that is next to `seconds`.
fn nearest_end(seconds: f64) -> usize {
    let distance = |bucket: &u32| (upper_bound_ns(*bucket) as f64 - seconds * 1e9).abs();
    let nearest = (0..BUCKETS - 1).min_by(|a, b| distance(a).total_cmp(&distance(b)));
    nearest.map_or(0, |bucket| bucket as usize + 1)
}

/// Counts by upper bound in seconds, not cumulative. The last bucket has no bound.
fn fold(histogram: &Histogram, seconds: &[f64], ends: &[usize]) -> Vec<(f64, u64)> {
    let bounds = seconds.iter().copied().chain([f64::INFINITY]);
    let ends = ends.iter().copied().chain([BUCKETS as usize]);
    let mut start = 0;
    let count = |(bound, end)| {
        let count = histogram.counts[start..end].iter().sum();
        start = end;
        (bound, count)
    };
    bounds.zip(ends).map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_agent_ebpf::histogram::bucket;

    #[test]
    fn bounds_are_at_most_a_sixteenth_from_those_of_the_kernel() {
        for seconds in METRICS.iter().flat_map(|metric| metric.seconds) {
            let end = nearest_end(*seconds);
            let kernel = upper_bound_ns(end as u32 - 1) as f64 / 1e9;
            assert!((kernel / seconds - 1.0).abs() <= 1.0 / 16.0, "{seconds} counts up to {kernel}");
        }
    }

    #[test]
    fn every_duration_is_in_the_bucket_of_its_bound() {
        for metric in &METRICS {
            let ends: Vec<usize> = metric.seconds.iter().map(|&seconds| nearest_end(seconds)).collect();
            assert!(ends.is_sorted_by(|a, b| a < b), "{}: {ends:?}", metric.name);
            let mut histogram = Histogram { sum_ns: 0, counts: [0; BUCKETS as usize] };
            // A tenth below each bound, and one beyond all.
            for seconds in metric.seconds.iter().chain(&[1e6]) {
                histogram.counts[bucket((seconds * 0.9e9) as u64) as usize] += 1;
            }
            let counts: Vec<u64> =
                fold(&histogram, metric.seconds, &ends).into_iter().map(|(_, count)| count).collect();
            assert_eq!(counts, vec![1; metric.seconds.len() + 1], "{}", metric.name);
        }
    }
}
