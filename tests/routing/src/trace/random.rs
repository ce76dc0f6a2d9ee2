//! Random variables of the generators.

use std::time::Duration;

use fastrand::Rng;

/// Exponentially distributed, as between the arrivals of a Poisson process.
pub(super) fn exponential(rng: &mut Rng, mean_s: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - rng.f64()).ln() * mean_s)
}

/// Geometric spread around a mean: a quarter to about twice of it. Token counts of real traffic are skewed to the right.
pub(super) fn around(rng: &mut Rng, mean: u32) -> u32 {
    // The mean of 0.25 × 8^u over u in 0..1 is 0.25 × 7 ÷ ln 8.
    let spread = 0.25 * 8_f64.powf(rng.f64()) / (0.25 * 7.0 / 8_f64.ln());
    ((f64::from(mean) * spread) as u32).max(1)
}

/// Index below `weights.len()`, by cumulative weights.
pub(super) fn by_weight(rng: &mut Rng, cumulative: &[f64]) -> usize {
    let total = cumulative.last().copied().unwrap_or_default();
    let value = rng.f64() * total;
    cumulative.partition_point(|&sum| sum <= value).min(cumulative.len().saturating_sub(1))
}

/// Cumulative weights of a Zipf distribution.
pub(super) fn zipf(count: usize, exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    (1..=count)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect()
}
