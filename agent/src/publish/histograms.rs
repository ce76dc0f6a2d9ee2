//! Latency histograms of an endpoint.

use forebay_agent_ebpf::maps::Histogram;

/// Cumulative latency histograms of an endpoint, as the kernel programs count them.
#[derive(Clone, Debug)]
pub struct LatencyHistograms {
    /// The only model that the engine serves. The publisher sets it.
    pub model: Option<String>,
    /// First request byte to first content byte.
    pub ttft: Histogram,
    /// Between two chunks of one response.
    pub itl: Histogram,
    /// First request byte to last response byte.
    pub duration: Histogram,
}

impl LatencyHistograms {
    /// From TTFT, ITL and duration.
    pub fn new([ttft, itl, duration]: [Histogram; 3]) -> Self {
        Self { model: None, ttft, itl, duration }
    }
}
