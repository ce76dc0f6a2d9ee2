//! The files in the chart, the names of the metrics, and the rules in Prometheus' own test tool.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints what it skips and fails by panicking"
)]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use forebay_monitoring::{Alert, Sample, alerts, dashboards, metric_names, rules_file};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

fn chart() -> PathBuf {
    root().join("charts/forebay")
}

#[test]
fn reference_of_the_chart_is_up_to_date() {
    forebay_reference::check(&chart().join("alerts.yaml"), &rules_file().unwrap());
    let folder = chart().join("dashboards");
    let mut expected = BTreeSet::new();
    for dashboard in dashboards() {
        let file = folder.join(format!("{}.json", dashboard.uid));
        forebay_reference::check(&file, &dashboard.json());
        expected.insert(file);
    }
    let files: BTreeSet<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, expected, "a dashboard without a source must be removed");
}

/// The names of all series in the tables of the programs.
fn known_series() -> BTreeSet<String> {
    let mut series = BTreeSet::new();
    for file in ["agent/REFERENCE.md", "epp/REFERENCE.md", "gateway/REFERENCE.md"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let (_, table) = text.split_once("## Metrics").unwrap();
        for line in table.lines() {
            let mut columns = line.split('|').skip(1).map(str::trim);
            let (Some(name), Some(kind)) = (columns.next(), columns.next()) else { continue };
            let name = name.trim_matches('`');
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            series.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
        }
    }
    assert!(series.len() > 100, "the tables are not read any more: {series:?}");
    series
}

#[test]
fn every_expression_selects_metrics_of_the_programs() {
    let known = known_series();
    let mut expressions: Vec<(String, String)> =
        alerts().iter().map(|alert| (alert.name.to_owned(), alert.expression.to_owned())).collect();
    for dashboard in dashboards() {
        for panel in &dashboard.panels {
            let name = format!("{} / {}", dashboard.title, panel.title);
            expressions.extend(panel.queries.iter().map(|query| (name.clone(), query.expression.clone())));
        }
        expressions.extend(dashboard.variables.iter().map(|it| (it.label.to_owned(), it.metric.to_owned())));
    }
    for (name, expression) in expressions {
        let metrics = metric_names(&expression);
        assert!(!metrics.is_empty(), "{name}: {expression} selects no metric of ours");
        for metric in metrics {
            assert!(known.contains(&metric), "{name}: {metric} does not exist, in {expression}");
        }
    }
}

#[test]
fn names_are_unique() {
    let uids: BTreeSet<_> = dashboards().iter().map(|it| it.uid).collect();
    assert_eq!(uids.len(), dashboards().len());
    let names: BTreeSet<_> = alerts().iter().map(|it| it.name).collect();
    assert_eq!(names.len(), alerts().len());
}

/// Runs promtool. `None` if it is not installed.
fn promtool(arguments: &[&Path]) -> Option<(bool, String)> {
    let Ok(output) = Command::new("promtool").args(arguments).output() else {
        println!("skipped: promtool not found (Debian package prometheus)");
        return None;
    };
    let text = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
    Some((output.status.success(), text))
}

#[test]
fn promtool_accepts_the_rules() {
    let file = chart().join("alerts.yaml");
    let Some((accepted, text)) = promtool(&["check".as_ref(), "rules".as_ref(), &file]) else { return };
    assert!(accepted && text.contains(&format!("{} rules found", alerts().len())), "{text}");
}

#[test]
fn alerts_fire_for_their_series_and_not_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = format!(
        "rule_files: [{:?}]\nevaluation_interval: 1m\ntests:\n",
        chart().join("alerts.yaml").display().to_string()
    );
    for alert in alerts() {
        text += &test_of(&alert, "fires", alert.fires, true);
        text += &test_of(&alert, "quiet", alert.quiet, false);
    }
    let file = folder.path().join("tests.yaml");
    fs::write(&file, &text).unwrap();
    let Some((passed, output)) = promtool(&["test".as_ref(), "rules".as_ref(), &file]) else { return };
    assert!(passed, "{output}");
}

/// A test of `promtool test rules`.
fn test_of(alert: &Alert, name: &str, series: &[Sample], fires: bool) -> String {
    let mut text = format!("- name: {} {name}\n  interval: 1m\n  input_series:\n", alert.name);
    for (series, values) in series {
        let _ = writeln!(text, "  - series: '{series}'\n    values: '{values}'");
    }
    let _ = writeln!(
        text,
        "  alert_rule_test:\n  - eval_time: 20m\n    alertname: {}\n    exp_alerts:{}",
        alert.name,
        if fires { "" } else { " []" }
    );
    if fires {
        let _ = writeln!(text, "    - exp_labels:\n        severity: {}", alert.severity);
        for (label, value) in alert.labels {
            let _ = writeln!(text, "        {label}: {value:?}");
        }
        let with_labels = |template: &str| {
            alert.labels.iter().fold(template.to_owned(), |text, (label, value)| {
                text.replace(&format!("{{{{ $labels.{label} }}}}"), value)
            })
        };
        let _ = writeln!(
            text,
            "      exp_annotations:\n        summary: {:?}\n        description: {:?}",
            with_labels(alert.summary),
            with_labels(alert.description)
        );
    }
    text
}
