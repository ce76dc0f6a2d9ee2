//! The table of the metrics of a program.

use std::{collections::BTreeSet, fmt::Write as _};

use super::one_line;

/// How many values labels have. The labels of one bound have one value each for the same thing.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The bound applies to metrics with this label.
    pub label: &'static str,
    /// Labels that go along with it.
    pub with: &'static [&'static str],
    /// For example `64 GPUs`.
    pub values: String,
}

impl Bound {
    /// A bound.
    pub fn new(label: &'static str, with: &'static [&'static str], values: impl Into<String>) -> Self {
        Self { label, with, values: values.into() }
    }
}

#[derive(Debug, Default)]
struct Metric<'a> {
    name: &'a str,
    kind: &'a str,
    unit: &'a str,
    help: &'a str,
    /// In the order of the text.
    labels: Vec<&'a str>,
    buckets: BTreeSet<&'a str>,
    has_sample: bool,
}

/// A table of the metrics of an OpenMetrics text with a sample of each metric: name, type, unit, labels, bound on the
/// number of series, meaning. The first bound that has a label counts.
///
/// # Panics
/// If a metric has no sample, if a label has no bound, or if a bound has no metric.
pub fn metrics(open_metrics: &str, bounds: &[Bound]) -> String {
    let mut metrics = parse(open_metrics);
    metrics.sort_by_key(|metric| metric.name);
    let mut used = BTreeSet::new();
    let mut text = "## Metrics\n\nSeries: how many one process can have.\n\n\
        | metric | type | unit | labels | series | meaning |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for metric in &metrics {
        assert!(metric.has_sample, "{} has no sample, so its labels are not known", metric.name);
        let suffix = match metric.kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            text,
            "| `{}{suffix}` | {} | {} | {} | {} | {} |",
            metric.name,
            metric.kind,
            metric.unit,
            labels.join(", "),
            series(metric, bounds, &mut used),
            one_line(&metric.help.trim_end_matches('.').replace('|', "\\|"))
        );
    }
    for bound in bounds {
        assert!(used.contains(bound.label), "no metric has the label {} of a bound", bound.label);
    }
    text.push('\n');
    text
}

fn series(metric: &Metric<'_>, bounds: &[Bound], used: &mut BTreeSet<&'static str>) -> String {
    let mut covered: BTreeSet<&str> = BTreeSet::new();
    let mut factors = Vec::new();
    for bound in bounds {
        if metric.labels.contains(&bound.label) && !covered.contains(bound.label) {
            used.insert(bound.label);
            covered.insert(bound.label);
            covered.extend(bound.with);
            factors.push(bound.values.clone());
        }
    }
    for label in &metric.labels {
        assert!(covered.contains(label), "the label {label} of {} has no bound", metric.name);
    }
    if metric.kind == "histogram" {
        factors.push((metric.buckets.len() + 2).to_string());
    }
    if factors.is_empty() { "1".to_owned() } else { factors.join(" × ") }
}

fn parse(text: &str) -> Vec<Metric<'_>> {
    let mut metrics: Vec<Metric<'_>> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (Some(keyword), Some(name), value) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if metrics.last().is_none_or(|metric| metric.name != name) {
                metrics.push(Metric { name, ..Metric::default() });
            }
            let Some(metric) = metrics.last_mut() else { continue };
            match keyword {
                "HELP" => metric.help = value.unwrap_or_default(),
                "TYPE" => metric.kind = value.unwrap_or_default(),
                "UNIT" => metric.unit = value.unwrap_or_default(),
                _ => {}
            }
        } else if let Some(metric) = metrics.last_mut() {
            metric.has_sample = true;
            for (label, value) in labels(line) {
                if label == "le" && metric.kind == "histogram" {
                    metric.buckets.insert(value);
                } else if !metric.labels.contains(&label) {
                    metric.labels.push(label);
                }
            }
        }
    }
    metrics
}

/// Names and values of the labels of a sample. Values are as in the text, with escapes.
fn labels(sample: &str) -> Vec<(&str, &str)> {
    let mut labels = Vec::new();
    let Some((_, mut rest)) = sample.split_once('{') else { return labels };
    while let Some((name, value)) = rest.split_once("=\"") {
        let mut escaped = false;
        let end = value.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        let Some(end) = end else { break };
        labels.push((name.trim_start_matches(','), &value[..end]));
        rest = &value[end + 1..];
        if rest.starts_with('}') {
            break;
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_seconds Time, or\tso.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
        a_seconds_bucket{pod=\"p\\\"}x=\\\"\",le=\"1.0\"} 1\na_seconds_bucket{pod=\"q\",le=\"+Inf\"} 1\n\
        a_seconds_sum{pod=\"q\"} 1.0\n# HELP b B.\n# TYPE b counter\nb_total 1\n# EOF\n";

    #[test]
    fn table_has_labels_units_and_bounds() {
        let table = metrics(TEXT, &[Bound::new("pod", &[], "9 pods")]);
        let rows: Vec<&str> = table.lines().skip(6).collect();
        assert_eq!(
            rows,
            [
                "| `a_seconds` | histogram | seconds | `pod` | 9 pods × 4 | Time, or so |",
                "| `b_total` | counter |  |  | 1 | B |",
                ""
            ]
        );
    }

    #[test]
    #[should_panic(expected = "the label pod of a_seconds has no bound")]
    fn every_label_needs_a_bound() {
        metrics(TEXT, &[]);
    }

    #[test]
    #[should_panic(expected = "b has no sample")]
    fn every_metric_needs_a_sample() {
        metrics("# TYPE b counter\n# EOF\n", &[]);
    }
}
