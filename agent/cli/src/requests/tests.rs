#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use clap::Parser;
use forebay_telemetry::v1::{EndedRequest, EndpointKey, RequestFilter, StatusRange};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::json_schema::validate;

use super::{
    Options,
    render::{Lost, Row, Table, document},
};

fn key() -> Option<EndpointKey> {
    Some(EndpointKey {
        namespace: "llm-d".into(),
        pod: "vllm-qwen3-06b-7d9f8b6c5-abcde".into(),
        uid: "u".into(),
        ip: "10.0.0.1".into(),
        port: 8000,
    })
}

/// A stream, an error, an abort before the response, and a request of which nothing is known.
fn requests() -> [EndedRequest; 4] {
    let stream = EndedRequest {
        key: key(),
        status: Some(200),
        duration_ns: Some(4_200_000_000),
        ttft_ns: Some(38_400_000),
        response_bytes: Some(123_456),
        response_chunks: Some(512),
        ..EndedRequest::default()
    };
    let error = EndedRequest {
        status: Some(503),
        duration_ns: Some(900_000),
        ttft_ns: Some(900_000),
        response_bytes: Some(312),
        response_chunks: Some(0),
        ..stream.clone()
    };
    let aborted = EndedRequest {
        aborted: true,
        status: None,
        ttft_ns: None,
        response_bytes: Some(0),
        response_chunks: Some(0),
        ..stream.clone()
    };
    let unknown = EndedRequest { key: key(), ..EndedRequest::default() };
    [stream, error, aborted, unknown]
}

fn row(request: &EndedRequest) -> Row<'_> {
    let ended_at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_999_999).unwrap();
    Row { node: "node-1", ended_at, request }
}

#[test]
fn tables_fit_the_terminal_and_have_dashes_for_unknown_values() {
    let table = Table::with_width(80);
    let rows: String = requests().iter().map(|request| table.row(&row(request))).collect();
    let expected = "\
TIME          POD                   STATUS     TTFT  DURATION      BYTES  CHUNKS
22:13:20.123  …06b-7d9f8b6c5-abcde  200        38ms      4.2s     123456     512
22:13:20.123  …06b-7d9f8b6c5-abcde  503       900us     900us        312       0
22:13:20.123  …06b-7d9f8b6c5-abcde  aborted       -      4.2s          0       0
22:13:20.123  …06b-7d9f8b6c5-abcde  -             -         -          -       -
";
    assert_eq!(table.header() + &rows, expected);
    assert!(expected.lines().all(|line| line.chars().count() <= 80));
    let wide = Table::with_width(160).row(&row(&requests()[0]));
    assert!(wide.contains("vllm-qwen3-06b-7d9f8b6c5-abcde"), "{wide}");
}

#[test]
fn json_has_one_document_per_line_and_null_for_unknown_values() {
    let all = requests();
    let [stream, _, _, unknown] = &all;
    let text = document(&row(stream));
    assert_eq!(text.matches('\n').count(), 1);
    let found: Value = serde_json::from_str(&text).unwrap();
    let mut expected = json!({
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "Request",
        "time": "2023-11-14T22:13:20.123Z",
        "node": "node-1",
        "namespace": "llm-d",
        "pod": "vllm-qwen3-06b-7d9f8b6c5-abcde",
        "uid": "u",
        "ip": "10.0.0.1",
        "port": 8000,
        "status": 200,
        "aborted": false,
        "ttftSeconds": 0.0384,
        "durationSeconds": 4.2,
        "responseBytes": 123_456,
        "responseChunks": 512,
    });
    assert_eq!(found, expected);
    assert_eq!(validate(&found), Ok(()));
    for name in ["status", "ttftSeconds", "durationSeconds", "responseBytes", "responseChunks"] {
        expected[name] = Value::Null;
    }
    assert_eq!(serde_json::from_str::<Value>(&document(&row(unknown))).unwrap(), expected);
    assert_eq!(validate(&expected), Ok(()));
}

#[test]
fn lost_requests_are_told_by_cause() {
    let lost = Lost { over_rate: 7, unread: 2, kernel_events: Some(3), interrupted: true };
    assert_eq!(
        lost.sentence(5),
        "requests not shown: 7 over --rate 5, 2 because this output was read too slowly, up to 3 because the kernel's event \
         ring was full, an unknown number while there was no connection"
    );
    let found: Value = serde_json::from_str(&lost.document("node-1")).unwrap();
    let expected = json!({
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "RequestsDropped",
        "node": "node-1",
        "overRate": 7,
        "unread": 2,
        "kernelEvents": 3,
        "interrupted": true,
    });
    assert_eq!(found, expected);
    assert_eq!(validate(&found), Ok(()));
    assert!(Lost { kernel_events: Some(0), ..Lost::default() }.is_nothing());
    assert!(!Lost { interrupted: true, ..Lost::default() }.is_nothing());
}

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn filter(arguments: &[&str]) -> Result<RequestFilter, String> {
    let arguments = [&["requests"], arguments].concat();
    Command::try_parse_from(arguments).map(|it| it.options.filter()).map_err(|error| error.to_string())
}

#[test]
fn the_agent_gets_the_filter_of_the_flags() {
    assert_eq!(filter(&[]), Ok(RequestFilter::default()));
    let flags =
        ["-n", "llm-d", "--pod", "a", "--slower-than", "500ms", "--status", "5xx,429", "--status", "aborted"];
    let expected = RequestFilter {
        namespace: "llm-d".into(),
        pod: "a".into(),
        statuses: vec![StatusRange { first: 500, last: 599 }, StatusRange { first: 429, last: 429 }],
        aborted: true,
        slower_than_ns: 500_000_000,
    };
    assert_eq!(filter(&flags), Ok(expected));
    for (flags, problem) in [
        (["--status", "6xx"], "such as 5xx"),
        (["--rate", "0"], "1..=10000"),
        (["--rate", "10001"], "1..=10000"),
        (["--limit", "0"], "--limit"),
        (["--slower-than", "1d"], "such as 90s"),
    ] {
        let error = filter(&flags).unwrap_err();
        assert!(error.contains(problem), "{flags:?}: {error}");
    }
}
