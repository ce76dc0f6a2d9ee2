//! Counters in the metrics of engines.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::get;

/// Tokens that all of these engines found in their prefix caches, and tokens that they looked for.
pub fn prefix_cache_tokens(pods: &[SocketAddr]) -> Result<(f64, f64)> {
    let mut sums = (0.0, 0.0);
    for pod in pods {
        let (_, metrics) = get(*pod, "/metrics")?;
        let value = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .with_context(|| format!("{pod} has no {name}"))
        };
        sums.0 += value("vllm:prefix_cache_hits_total")?;
        sums.1 += value("vllm:prefix_cache_queries_total")?;
    }
    Ok(sums)
}
