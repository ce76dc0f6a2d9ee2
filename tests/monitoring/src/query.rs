//! What tests need to know of a PromQL expression.

use std::collections::BTreeSet;

/// Prefixes of the metrics of our programs.
const PREFIXES: [&str; 5] = ["forebay_", "gen_ai_", "llm_d_epp_", "inference_", "DCGM_"];

/// Names of the metrics that an expression selects.
pub fn metric_names(expression: &str) -> BTreeSet<String> {
    let outside = without_labels(expression);
    let words = outside.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned).collect()
}

/// The expression without matchers and label lists, in which label names look like metric names.
fn without_labels(expression: &str) -> String {
    let mut rest = expression;
    let mut outside = String::new();
    while let Some(start) = rest.find(['{', '(']) {
        let (before, opened) = rest.split_at(start);
        outside.push_str(before);
        let word = before.trim_end().rsplit(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        let is_list = matches!(word, "by" | "without" | "on" | "ignoring");
        let end =
            if opened.starts_with('{') { opened.find('}') } else { opened.find(')').filter(|_| is_list) };
        let skipped = end.map_or(1, |end| end + 1);
        outside.push(' ');
        rest = &opened[skipped..];
    }
    outside + rest
}

/// The expression as Grafana sends it: all values of the variables, and a range of `rate_interval`.
pub fn with_values(expression: &str, variables: &[&str], rate_interval: &str) -> String {
    let expression = expression.replace("$__rate_interval", rate_interval);
    variables.iter().fold(expression, |expression, name| expression.replace(&format!("${name}"), ".*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_not_metrics() {
        let expression = r#"histogram_quantile(0.9, sum by (le, gen_ai_request_model) (rate(gen_ai_x_seconds_bucket{gen_ai_request_model=~"a(forebay_b)"}[5m]))) / on (forebay_l) forebay_c"#;
        let names = metric_names(expression);
        assert_eq!(
            names.iter().map(String::as_str).collect::<Vec<_>>(),
            ["forebay_c", "gen_ai_x_seconds_bucket"]
        );
    }

    #[test]
    fn variables_get_all_values() {
        let expression = r#"rate(a{pod=~"$pod"}[$__rate_interval])"#;
        assert_eq!(with_values(expression, &["pod"], "1m"), r#"rate(a{pod=~".*"}[1m])"#);
    }
}
