//! Forebay's policy against the best other one of each cell.

use forebay_routing_bench::policies;
use forebay_routing_sim::report::PolicyRow;

/// One cell.
pub(crate) struct Comparison {
    title: String,
    /// TTFT p90 by the lowest of the others, and whose that is.
    ttft: (f64, String),
    /// Output tokens per second by the highest of the others, and whose that is.
    throughput: (f64, String),
    /// Highest by lowest TTFT p90 of Forebay's runs: the noise of the first ratio.
    spread: f64,
}

impl Comparison {
    /// `None` if Forebay's policy or all others are missing.
    pub(crate) fn of(title: String, rows: &[PolicyRow]) -> Option<Self> {
        let (own, others): (Vec<&PolicyRow>, Vec<_>) =
            rows.iter().partition(|row| row.policy == policies::FOREBAY);
        let own = own.first()?;
        let ttft = |row: &PolicyRow| row.summary.ttft_p90_ms.median;
        let throughput = |row: &PolicyRow| row.summary.output_tokens_per_s.median;
        let quickest = others.iter().min_by(|a, b| ttft(a).total_cmp(&ttft(b)))?;
        let most = others.iter().max_by(|a, b| throughput(a).total_cmp(&throughput(b)))?;
        let spread = own.summary.ttft_p90_ms;
        Some(Self {
            title,
            ttft: (ttft(own) / ttft(quickest), quickest.policy.clone()),
            throughput: (throughput(own) / throughput(most), most.policy.clone()),
            spread: spread.max / spread.min,
        })
    }
}

/// A Markdown table of the ratios.
pub(crate) fn table(comparisons: &[Comparison]) -> String {
    let mut text = "| cell | TTFT p90 by best other | (max/min of runs) | best other | out tok/s by best other | best other |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for Comparison { title, ttft, throughput, spread } in comparisons {
        text.push_str(&format!(
            "| {title} | {:.2} | {spread:.2} | {} | {:.2} | {} |\n",
            ttft.0, ttft.1, throughput.0, throughput.1
        ));
    }
    text
}
