//! What becomes of one request for a model: the gateway's own account of it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    gateway::Gateway,
    json::API_VERSION,
    output::Output,
    table::{align, header as row},
};

const EXPLAIN: &str = "x-forebay-explain";
const EXPLANATION: &str = "x-forebay-explanation";
/// Of the answer no more is read: a completion of one token, or an error.
const MAX_ANSWER_BYTES: usize = 1 << 20;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// What a client would ask for.
    model: String,
    /// Address and port of a listener that the Gateway's annotation `forebay.dev/trusted-listeners` names;
    /// with `https://` before it where the listener speaks TLS.
    #[arg(long, env = "FOREBAY_GATEWAY", value_name = "[https://]ADDRESS:PORT")]
    gateway: Gateway,
    /// Host that the request, and the listener's certificate, is for [default: that of --gateway].
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Authority that the listener's certificate is of [default: those that this machine trusts].
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    #[arg(long, default_value = "/v1/chat/completions", value_name = "PATH")]
    path: String,
    /// Longest wait for the answer, seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What came back.
struct Answer {
    status: StatusCode,
    /// Of an error: its `code` and message.
    error: Option<String>,
    explanation: Value,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let limit = Duration::from_secs(options.timeout);
    let answer = timeout(limit, ask(options))
        .await
        .with_context(|| format!("{} did not answer within {limit:?}", options.gateway))??;
    let mut out = io::stdout().lock();
    match options.output {
        Output::Table => write!(out, "{}", table(&answer))?,
        Output::Json => writeln!(out, "{:#}", document(&answer))?,
    }
    out.flush()?;
    Ok(if answer.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(options: &Options) -> anyhow::Result<Answer> {
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
    let response =
        sender.send_request(request).await.with_context(|| format!("{gateway} does not answer"))?;
    let status = response.status();
    let Some(explanation) = response.headers().get(EXPLANATION) else {
        bail!(
            "{gateway} answers with {status} and does not explain: name its listener in the annotation \
             forebay.dev/trusted-listeners of the Gateway, and no other listener of the same port"
        );
    };
    let explanation = serde_json::from_slice(explanation.as_bytes())
        .context("the explanation is no JSON; is it Forebay's?")?;
    let error = if status.is_success() {
        None
    } else {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Some(body.map(|body| said(&body.to_bytes())).unwrap_or_default()).filter(|text| !text.is_empty())
    };
    Ok(Answer { status, error, explanation })
}

/// Of an error in OpenAI's shape what it says.
fn said(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return String::new() };
    let text = |name: &str| body["error"][name].as_str().unwrap_or_default();
    match (text("code"), text("message")) {
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

fn document(answer: &Answer) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "Explanation",
        "status": answer.status.as_u16(),
        "error": answer.error,
        "explanation": answer.explanation,
    })
}

fn table(answer: &Answer) -> String {
    let it = &answer.explanation;
    let mut rows = vec![row(&["STEP", "WHAT", "TIME"])];
    let mut step = |name: &str, what: String, time: &str| {
        let time = it[time].as_u64().map_or_else(String::new, microseconds);
        rows.push(vec![name.to_owned(), what, time]);
    };
    step("listener", show(&it["listener"]), "");
    step("model", show(&it["model"]), "extractMicroseconds");
    step("base model", show(&it["baseModel"]), "");
    step("route", show(&it["rule"]), "");
    step("backend", show(&it["backend"]), "");
    step("picked by", show(&it["picker"]), "pickMicroseconds");
    let endpoints = it["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, endpoint) in endpoints.iter().enumerate() {
        step(&format!("endpoint {}", index + 1), show(endpoint), "");
    }
    step("served by", served(it), "upstreamMicroseconds");
    let status = match &answer.error {
        Some(error) => format!("{} {error}", answer.status.as_u16()),
        None => answer.status.to_string(),
    };
    step("answer", status, "");
    align(&rows)
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
    fn a_table_has_a_line_for_each_step() {
        let explanation = json!({
            "listener": "port 8081, hostname *", "model": "adapter", "baseModel": "base", "rule": "llm-d/qwen rule 0",
            "backend": "llm-d/qwen", "picker": "in process", "endpoints": ["10.0.0.1:8000", "10.0.0.2:8000"],
            "servedBy": "10.0.0.2:8000", "attempts": 2,
            "extractMicroseconds": 31, "pickMicroseconds": 9, "upstreamMicroseconds": 48_000,
        });
        let table = table(&Answer { status: StatusCode::OK, error: None, explanation });
        let expected = "\
STEP         WHAT                        TIME
listener     port 8081, hostname *
model        adapter                     31 µs
base model   base
route        llm-d/qwen rule 0
backend      llm-d/qwen
picked by    in process                  9 µs
endpoint 1   10.0.0.1:8000
endpoint 2   10.0.0.2:8000
served by    10.0.0.2:8000, in attempt 2   48 ms
answer       200 OK
";
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&table), words(expected));
    }

    #[test]
    fn an_error_is_told_in_its_own_words() {
        let body = br#"{"error": {"code": "model_not_found", "message": "no model x"}}"#;
        assert_eq!(said(body), "model_not_found: no model x");
        assert_eq!(said(b"<html>"), "");
        let error = Some(said(body));
        let answer = Answer { status: StatusCode::NOT_FOUND, error, explanation: json!({ "model": "x" }) };
        let table = table(&answer);
        assert!(table.contains("404 model_not_found: no model x"), "{table}");
        assert!(table.lines().any(|line| line.starts_with("served by") && line.ends_with('-')), "{table}");
        assert_eq!(document(&answer)["status"], 404);
    }
}
