//! `forebay usage` on a real database.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use forebay_usage::{Database, Tokens, UsageRecord};
use serde_json::{Value, json};
use tempfile::TempDir;

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

fn record(key: Option<&str>, model: &str, prompt: u64) -> UsageRecord {
    UsageRecord {
        time: UNIX_EPOCH + Duration::from_secs(NOW),
        api_key: key.map(str::to_owned),
        group: None,
        model: model.to_owned(),
        base_model: model.strip_suffix("-lora").map(str::to_owned),
        pool: "ns/p".to_owned(),
        endpoint: None,
        status: 200,
        error: None,
        tokens: Some(Tokens {
            prompt: Some(prompt),
            cached: Some(prompt / 2),
            completion: Some(100),
            reasoning: None,
        }),
        ttft: None,
        duration: Duration::from_secs(2),
    }
}

/// A database with requests of two keys, and one without a key.
async fn database() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("usage.db").display());
    let database = Database::new(&url).unwrap();
    database.create_table().await.unwrap();
    let records = [
        record(Some("sales"), "qwen", 1_000_000),
        record(Some("sales"), "qwen-lora", 500_000),
        UsageRecord { status: 503, tokens: None, ..record(Some("sales"), "qwen", 0) },
        record(Some("labs"), "own", 100),
        UsageRecord { time: UNIX_EPOCH + Duration::from_secs(NOW + 86_400), ..record(None, "qwen", 10) },
    ];
    let with_ids = records.into_iter().enumerate().map(|(number, record)| (number.to_string(), record));
    database.insert(&with_ids.collect::<Vec<_>>()).await.unwrap();
    (folder, url)
}

/// Exit code, standard output and standard error.
fn usage(url: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["usage", "--db", url, "--since", "2025-12-31T00:00:00Z", "--until", "2026-02-01T00:00:00Z"])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn printed(url: &str, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = usage(url, arguments);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    stdout
}

#[tokio::test]
async fn sums_up_by_key_and_model() {
    let (_folder, url) = database().await;
    let expected = "\
KEY     MODEL       REQUESTS   FAILED   WITHOUT-USAGE   PROMPT    CACHED   COMPLETION   REASONING
sales   qwen        2          1        1               1000000   500000   100          0
sales   qwen-lora   1          0        0               500000    250000   100          0
labs    own         1          0        0               100       50       100          0
-       qwen        1          0        0               10        5        100          0
TOTAL               5          1        1               1500110   750055   400          0
";
    assert_eq!(printed(&url, &[]), expected);
}

#[tokio::test]
async fn costs_are_those_of_models_with_a_price() {
    let (folder, url) = database().await;
    let prices = folder.path().join("prices.yaml");
    std::fs::write(&prices, "currency: EUR\nmodels:\n  qwen: {input: 2, cached: 1, output: 0}\n").unwrap();
    let prices = prices.to_str().unwrap();
    let table = printed(&url, &["--by", "key", "--prices", prices]);
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0].last(), Some(&"(EUR)"));
    let costs: Vec<&str> = cells[1..5].iter().map(|row| *row.last().unwrap()).collect();
    assert_eq!(costs, ["2.2500", "-", "0.0000", "2.2500+"]);
    assert_eq!(table.lines().last(), Some("+, -: tokens of models without a price are not in the cost"));
    let csv = printed(&url, &["--by", "key,day", "--prices", prices, "-o", "csv"]);
    assert_eq!(
        csv.lines().collect::<Vec<_>>(),
        [
            "key,day,requests,failed,without_usage,prompt_tokens,cached_tokens,completion_tokens,reasoning_tokens,cost",
            "sales,2026-01-01,3,1,1,1500000,750000,200,0,2.25",
            "labs,2026-01-01,1,0,0,100,50,100,0,",
            ",2026-01-02,1,0,0,10,5,100,0,0.000015",
        ]
    );
}

#[tokio::test]
async fn json_is_a_document_of_the_schema_with_nulls_for_what_is_unknown() {
    let (_folder, url) = database().await;
    let document: Value =
        serde_json::from_str(&printed(&url, &["--by", "key,base-model", "-o", "json"])).unwrap();
    let schema: Value = serde_json::from_str(
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json")).unwrap(),
    )
    .unwrap();
    assert!(jsonschema::is_valid(&schema, &document), "{document:#}");
    assert_eq!(
        (&document["apiVersion"], &document["kind"], &document["by"]),
        (&json!("forebay.dev/v1alpha1"), &json!("UsageReport"), &json!(["key", "baseModel"]))
    );
    assert_eq!(
        (&document["since"], &document["until"]),
        (&json!("2025-12-31T00:00:00Z"), &json!("2026-02-01T00:00:00Z"))
    );
    assert_eq!(
        document["items"][0],
        json!({
            "key": "sales", "baseModel": "qwen", "requests": 3, "failed": 1, "withoutUsage": 1,
            "promptTokens": 1_500_000, "cachedTokens": 750_000, "completionTokens": 200, "reasoningTokens": 0,
            "durationSeconds": 6.0, "cost": null, "costIsComplete": null,
        })
    );
    assert_eq!(document["items"][2]["key"], Value::Null);
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let (folder, url) = database().await;
    let failed = |url: &str, arguments: &[&str]| {
        let (code, stdout, stderr) = usage(url, arguments);
        assert_eq!(stdout, "");
        (code, stderr)
    };
    let (code, stderr) = failed("mysql://u:secret@host/d", &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("Use sqlite:PATH or postgres://") && !stderr.contains("secret"), "{stderr}");
    let (code, stderr) = failed(&format!("sqlite:{}", folder.path().join("other.db").display()), &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("forebay: cannot read the usage of requests: usage database:"), "{stderr}");
    assert!(!folder.path().join("other.db").exists(), "a report creates no database");
    let (code, stderr) = failed("postgres://u:secret@127.0.0.1:1/d", &[]);
    assert_eq!(code, Some(1));
    assert!(!stderr.contains("secret"), "{stderr}");
    let (_, stderr) = failed(&url, &["--since", "7d", "--until", "8d"]);
    assert!(stderr.contains("cannot be used multiple times"), "{stderr}");
    let (code, stderr) = failed(&url, &["--prices", "none.yaml"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot read prices from none.yaml"), "{stderr}");
}
