//! The metrics of the pickers in this process, beside the gateway's own.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use arc_swap::ArcSwap;

/// One for each pool that is picked in this process.
#[derive(Debug, Default)]
pub(crate) struct PickerMetrics(ArcSwap<Vec<Arc<forebay_epp::Metrics>>>);

impl PickerMetrics {
    pub(crate) fn set(&self, metrics: Vec<Arc<forebay_epp::Metrics>>) {
        self.0.store(Arc::new(metrics));
    }

    /// In OpenMetrics text without its end, each family once.
    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        let texts: Vec<String> =
            self.0.load().iter().map(|metrics| metrics.text()).collect::<Result<_, _>>()?;
        merge(&texts, out)
    }
}

/// Each text has all families, with samples that differ in their labels.
fn merge(texts: &[String], out: &mut String) -> fmt::Result {
    let mut families: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for text in texts {
        let mut family = "";
        for line in text.lines().filter(|line| *line != "# EOF") {
            match line.strip_prefix("# ") {
                Some(about) => {
                    family = about.split(' ').nth(1).unwrap_or_default();
                    let (head, _) = families.entry(family).or_default();
                    if !head.contains(&line) {
                        head.push(line);
                    }
                }
                None => families.entry(family).or_default().1.push(line),
            }
        }
    }
    for (head, samples) in families.values() {
        for line in head.iter().chain(samples) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_said_once_with_the_samples_of_all_pools() {
        let text = |pool: &str| {
            format!(
                "# HELP picks Picks.\n# TYPE picks counter\npicks_total{{pool=\"{pool}\"}} 1\n# HELP age Age.\n# TYPE age gauge\nage{{pool=\"{pool}\"}} 2\n# EOF\n"
            )
        };
        let mut out = String::new();
        merge(&[text("a"), text("b")], &mut out).unwrap();
        assert_eq!(
            out,
            "# HELP age Age.\n# TYPE age gauge\nage{pool=\"a\"} 2\nage{pool=\"b\"} 2\n\
             # HELP picks Picks.\n# TYPE picks counter\npicks_total{pool=\"a\"} 1\npicks_total{pool=\"b\"} 1\n"
        );
    }
}
