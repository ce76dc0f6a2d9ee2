//! `forebay explain`: sends one request and shows the gateway's explanation of it.

mod decision;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use forebay_routing::{EXPLAIN, EXPLANATION};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    gateway::Gateway,
    json::API_VERSION,
    output::Output,
    table::{align, header as row},
};

/// What to do if a gateway explains nothing.
pub(crate) const UNTRUSTED: &str = "add its listener to the Gateway's annotation forebay.dev/trusted-listeners, and give it a \
                                    port of its own";
/// Maximum bytes of an error response that are read.
const MAX_ERROR_BYTES: usize = 1 << 20;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Model name of the request.
    model: String,
    /// Address of a listener that the Gateway's annotation `forebay.dev/trusted-listeners` names; https:// for TLS.
    #[arg(long, env = "FOREBAY_GATEWAY", value_name = "[https://]ADDRESS:PORT")]
    gateway: Gateway,
    /// Host header, and server name of the certificate [default: host of --gateway].
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Certificate authority of the listener (PEM) [default: those of this machine].
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Path of the request.
    #[arg(long, default_value = "/v1/chat/completions", value_name = "PATH")]
    path: String,
    /// Timeout of the request in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Response of the gateway.
struct Explained {
    status: StatusCode,
    /// Code and message of an error response.
    error: Option<String>,
    explanation: Value,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let limit = Duration::from_secs(options.timeout);
    let explained = timeout(limit, ask(options))
        .await
        .with_context(|| format!("no response of {} within {limit:?}", options.gateway))??;
    let mut out = io::stdout().lock();
    match options.output {
        Output::Table => write!(out, "{}", table(&explained))?,
        Output::Json => writeln!(out, "{:#}", document(&explained))?,
    }
    out.flush()?;
    Ok(if explained.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(options: &Options) -> anyhow::Result<Explained> {
    let gateway = &options.gateway;
    let host = options.host.as_deref().unwrap_or(gateway.authority());
    let stream = gateway.connect(host, options.tls_ca.as_deref()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let body = json!({
        "model": options.model,
        "messages": [{ "role": "user", "content": "Hello" }],
        "max_tokens": 1,
    });
    let request = Request::post(options.path.as_str())
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(EXPLAIN, "1")
        .body(Full::new(Bytes::from(body.to_string())))
        .context("--path and --host must be a path and a name")?;
    let response = sender.send_request(request).await.with_context(|| format!("no response of {gateway}"))?;
    let status = response.status();
    let Some(explanation) = explanation(response.headers())? else {
        bail!("{gateway} responded with {status} and without an explanation: {UNTRUSTED}");
    };
    let error = if status.is_success() { None } else { error(response.into_body()).await };
    Ok(Explained { status, error, explanation })
}

/// The gateway's explanation. `None` if it sent none.
pub(crate) fn explanation(headers: &HeaderMap) -> anyhow::Result<Option<Value>> {
    let Some(explanation) = headers.get(EXPLANATION) else { return Ok(None) };
    serde_json::from_slice(explanation.as_bytes())
        .context("the explanation is not JSON; is this a Forebay gateway?")
        .map(Some)
}

/// Code and message of an error response, if it has them.
pub(crate) async fn error(body: Incoming) -> Option<String> {
    let body = Limited::new(body, MAX_ERROR_BYTES).collect().await.ok()?;
    Some(error_text(&body.to_bytes())).filter(|text| !text.is_empty())
}

/// Code and message of an error in OpenAI's format; empty for other bodies.
fn error_text(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return String::new() };
    let text = |name: &str| body["error"][name].as_str().unwrap_or_default();
    match (text("code"), text("message")) {
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

fn document(explained: &Explained) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "Explanation",
        "status": explained.status.as_u16(),
        "error": explained.error,
        "explanation": explained.explanation,
    })
}

fn table(explained: &Explained) -> String {
    let it = &explained.explanation;
    let mut rows = vec![row(&["STEP", "RESULT", "TIME"])];
    let mut step = |name: &str, result: String, time: &str| {
        let time = it[time].as_u64().map_or_else(String::new, microseconds);
        rows.push(vec![name.to_owned(), result, time]);
    };
    step("listener", show(&it["listener"]), "");
    step("model", show(&it["model"]), "extractMicroseconds");
    step("base model", show(&it["baseModel"]), "");
    step("route", show(&it["rule"]), "");
    step("backend", show(&it["backend"]), "");
    step("picked by", show(&it["picker"]), "pickMicroseconds");
    if let Some(share) = it["bodyShareAtPick"].as_f64() {
        step("body read", format!("{:.0} % when picked", share * 100.0), "");
    }
    let endpoints = it["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, endpoint) in endpoints.iter().enumerate() {
        step(&format!("endpoint {}", index + 1), show(endpoint), "");
    }
    step("served by", served(it), "upstreamMicroseconds");
    let status = match &explained.error {
        Some(error) => format!("{} {error}", explained.status.as_u16()),
        None => explained.status.to_string(),
    };
    step("response", status, "");
    let decision = match it["decision"].as_object() {
        Some(_) => decision::table(&it["decision"]),
        None => it["noDecisionBecause"].as_str().map(|why| format!("scores: {why}\n")).unwrap_or_default(),
    };
    let gap = if decision.is_empty() { "" } else { "\n" };
    format!("{}{gap}{decision}", align(&rows))
}

fn served(explanation: &Value) -> String {
    let endpoint = show(&explanation["servedBy"]);
    match explanation["attempts"].as_u64() {
        Some(attempts @ 2..) => format!("{endpoint}, in attempt {attempts}"),
        _ => endpoint,
    }
}

fn show(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn microseconds(time: u64) -> String {
    if time < 10_000 { format!("{time} µs") } else { format!("{} ms", time / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_a_line_per_step() {
        let explanation = json!({
            "listener": "port 8081, hostname *", "model": "adapter", "baseModel": "base", "rule": "llm-d/qwen rule 0",
            "backend": "llm-d/qwen", "picker": "in process", "endpoints": ["10.0.0.1:8000", "10.0.0.2:8000"],
            "servedBy": "10.0.0.2:8000", "attempts": 2,
            "extractMicroseconds": 31, "pickMicroseconds": 9, "upstreamMicroseconds": 48_000,
        });
        let explained = Explained { status: StatusCode::OK, error: None, explanation };
        assert_eq!(crate::json_schema::validate(&document(&explained)), Ok(()));
        let table = table(&explained);
        let expected = "\
STEP         RESULT                      TIME
listener     port 8081, hostname *
model        adapter                     31 µs
base model   base
route        llm-d/qwen rule 0
backend      llm-d/qwen
picked by    in process                  9 µs
endpoint 1   10.0.0.1:8000
endpoint 2   10.0.0.2:8000
served by    10.0.0.2:8000, in attempt 2   48 ms
response     200 OK
";
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&table), words(expected));
    }

    #[test]
    fn shows_code_and_message_of_errors() {
        let body = br#"{"error": {"code": "model_not_found", "message": "no model x"}}"#;
        assert_eq!(error_text(body), "model_not_found: no model x");
        assert_eq!(error_text(b"<html>"), "");
        let error = Some(error_text(body));
        let explained =
            Explained { status: StatusCode::NOT_FOUND, error, explanation: json!({ "model": "x" }) };
        let table = table(&explained);
        assert!(table.contains("404 model_not_found: no model x"), "{table}");
        assert!(table.lines().any(|line| line.starts_with("served by") && line.ends_with('-')), "{table}");
        assert_eq!(document(&explained)["status"], 404);
    }
}
