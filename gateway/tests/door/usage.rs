//! Usage records.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_usage::{Database, Dimension, Report, ReportRow};

use super::*;
use crate::support::client::{connect, get};

const USAGE: &str =
    r#""usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}"#;

/// What the database at `url` has, by key, group, model, base model and status.
async fn stored(url: &str) -> Vec<ReportRow> {
    let by =
        vec![Dimension::Key, Dimension::Group, Dimension::Model, Dimension::BaseModel, Dimension::Status];
    let report = Report { by, since: UNIX_EPOCH, until: SystemTime::now() + Duration::from_secs(60) };
    Database::for_reports(url).unwrap().report(&report).await.unwrap()
}

fn row(values: [Option<&str>; 5]) -> ReportRow {
    let values = values.map(|value| value.map(str::to_owned)).to_vec();
    ReportRow { values, requests: 1, duration_seconds: 0.0, ..ReportRow::default() }
}

#[tokio::test]
async fn requests_that_reach_an_endpoint_are_recorded_until_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("usage.db").display());
    let upstream = Upstream::bind().await;
    let keys = policy(
        "agentgateway-system",
        "keys",
        GATEWAY,
        "apiKeyAuthentication: {mode: Strict, secretRef: {name: keys}}",
    );
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .with(&secret("agentgateway-system"))
        .with(&keys)
        .start_with(|config| config.usage_db = Some(url.clone()))
        .await;
    // Without a key nothing reaches an endpoint.
    assert_eq!(ask(running.address(), "", QWEN).await.status, 401);
    // A stream, whose usage the gateway asks for.
    let body = format!(r#"{{"model":"{QWEN}","messages":[],"stream":true}}"#);
    let mut client = connect(running.address()).await;
    client.write(post_with(&bearer(LABS), &body)).await;
    let mut pod = upstream.accept().await;
    assert!(pod.read_request().await.text().contains("include_usage"));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    pod.write(format!("{head}data: {{\"choices\":[],{USAGE}}}\n\ndata: [DONE]\n\n")).await;
    drop(pod);
    client.read_until("0\r\n\r\n").await;
    // One that the endpoint breaks.
    let (broken, ()) =
        tokio::join!(exchange(running.address(), post_with(&bearer(SALES), &super::body(QWEN))), async {
            let mut pod = upstream.accept().await;
            pod.read_request().await;
            pod.respond(500, "{}").await;
        });
    assert_eq!(broken.status, 500);
    // What was queued is written before the gateway ends.
    running.gateway.shutdown().await;
    let mut rows = stored(&url).await;
    rows.iter_mut().for_each(|row| {
        assert!(row.duration_seconds > 0.0);
        row.duration_seconds = 0.0;
    });
    let labs = row([Some("labs"), Some("labs"), Some(QWEN), Some(QWEN), Some("200")]);
    let sales = row([Some("sales"), Some("sales"), Some(QWEN), Some(QWEN), Some("500")]);
    let labs = ReportRow { prompt_tokens: 7, cached_tokens: 4, completion_tokens: 2, ..labs };
    assert_eq!(rows, [labs, ReportRow { failed: 1, without_usage: 1, ..sales }]);
}

#[tokio::test]
async fn a_database_that_is_not_reachable_stops_no_request() {
    let upstream = Upstream::bind().await;
    let running = Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], None)
        .start_with(|config| config.usage_db = Some("postgres://u:secret@127.0.0.1:1/d".to_owned()))
        .await;
    let (response, _) = tokio::join!(ask(running.address(), "", QWEN), upstream.answer_one("ok"));
    assert_eq!(response.text(), "ok");
    let metrics = || get(running.gateway.admin_address(), "/metrics");
    crate::support::within("a failure", async {
        while metrics().await.text().contains("forebay_gateway_usage_database_failures_total 0") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(metrics().await.text().contains("forebay_gateway_usage_records_total 0"));
}
