//! Which model takes another's place.

use std::collections::HashMap;

use super::*;
use forebay_openai::ModelName;

fn rewrite(name: &str, made: &str, pool: &str, rules: &str) -> String {
    let made = if made.is_empty() { String::new() } else { format!(", creationTimestamp: {made:?}") };
    format!(
        r#"
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {{name: {name}, namespace: models{made}}}
spec: {{poolRef: {{name: {pool}}}, rules: [{rules}]}}
"#
    )
}

fn rule(model: &str, target: &str) -> String {
    let matches = if model.is_empty() {
        String::new()
    } else {
        format!("matches: [{{model: {{type: Exact, value: {model}}}}}], ")
    };
    format!("{{{matches}targets: [{{modelRewrite: {target}}}]}}")
}

const ROUTE: &str = r#"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: models}
spec:
  parentRefs: [{name: gw, namespace: infra}]
  rules: [{backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: p}]}]
"#;

async fn with(rewrites: &[String]) -> RouteTable {
    table(&[&*gateway(OPEN), &pools(&["p", "q"]), ROUTE, &rewrites.concat()].concat()).await
}

fn target<'a>(table: &'a RouteTable, model: &str) -> Option<&'a str> {
    let pool = table.pools.iter().find(|pool| pool.key.name == "p").unwrap();
    let model = ModelName::parse(model.as_bytes()).unwrap();
    pool.rewrites.as_ref()?.target(&model).map(ModelName::as_str)
}

#[tokio::test]
async fn applies_rewrite_precedence() {
    let old = "2026-01-01T00:00:00Z";
    let young = "2026-02-01T00:00:00Z";
    let table = with(&[
        rewrite("a-young", young, "p", &[rule("food", "young"), rule("drink", "young-drink")].join(",")),
        rewrite("b-ageless", "", "p", &[rule("drink", "ageless"), rule("snack", "ageless-snack")].join(",")),
        rewrite(
            "c-old",
            old,
            "p",
            &[rule("", "any"), rule("food", "first"), rule("food", "later")].join(","),
        ),
        rewrite("d-other", old, "q", &rule("food", "of-another-pool")),
    ])
    .await;
    let targets = ["food", "drink", "snack", "else"].map(|model| target(&table, model));
    assert_eq!(targets, [Some("first"), Some("young-drink"), Some("ageless-snack"), Some("any")]);
    assert_eq!(target(&with(&[]).await, "food"), None);
}

#[tokio::test]
async fn reads_older_group_and_rejects_invalid_names() {
    let older = rewrite("old-group", "", "p", &rule("food", "f"))
        .replace("llm-d.ai", "inference.networking.x-k8s.io");
    let bad = rewrite("bad", "", "p", &rule("bad", r#"" x""#));
    let table = with(&[older, bad]).await;
    assert_eq!((target(&table, "food"), target(&table, "bad")), (Some("f"), None));
    assert!(
        table
            .problems
            .contains(r#"InferenceModelRewrite models/bad: Invalid: " x" is not a valid model name"#)
    );
}

#[tokio::test]
async fn chooses_targets_by_weight() {
    let rules = "{matches: [{model: {value: m}}], \
        targets: [{modelRewrite: a, weight: 90}, {modelRewrite: b, weight: 10}]}, \
        {targets: [{modelRewrite: c}, {modelRewrite: d}]}";
    let table = with(&[rewrite("w", "", "p", rules)]).await;
    let shares = |model: &str| {
        let mut counts = HashMap::<String, u32>::new();
        for _ in 0..10_000 {
            *counts.entry(target(&table, model).unwrap().to_owned()).or_default() += 1;
        }
        counts
    };
    let weighted = shares("m");
    assert!((8_500..9_500).contains(&weighted["a"]) && weighted.len() == 2, "{weighted:?}");
    let equal = shares("other");
    assert!((4_500..5_500).contains(&equal["c"]) && equal.len() == 2, "{equal:?}");
}

#[tokio::test]
async fn exact_rewrites_are_aliases() {
    let table = with(&[rewrite("r", "", "p", &[rule("food", "base"), rule("", "any")].join(","))]).await;
    let listener = of_port(&table).listener("any.example").unwrap();
    let alias =
        |model: &str| listener.alias(&ModelName::parse(model.as_bytes()).unwrap()).map(ModelName::as_str);
    assert_eq!((alias("food"), alias("other")), (Some("base"), None));
    assert!(listener.label("food").is_some());
    let page = table.describe().to_string();
    assert!(page.contains(r#""rewrites":{"*":["any"],"food":["base"]}"#), "{page}");
}
