//! Access log: one JSON object per line for each finished request, on standard output.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// Maximum queued lines. Further lines are dropped and counted.
const QUEUE_LINES: usize = 4096;

/// One finished request. Contains no prompt, no query, and no client header except the request id.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    /// Unix time in seconds.
    pub(crate) time: f64,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// Error code, if no engine responded or the response was aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'a str>,
    pub(crate) model: &'a str,
    /// The backend: an InferencePool or a Service.
    pub(crate) pool: &'a str,
    /// Name of the caller's entry in the Secret or ConfigMap. Never the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<&'a str>,
    /// `iss` of the caller's token. Never the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwt_issuer: Option<&'a str>,
    /// `sub` of the caller's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwt_subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<&'a str>,
    pub(crate) duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttft_seconds: Option<f64>,
    pub(crate) response_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_tokens: Option<u64>,
    /// Of the prompt tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cached_tokens: Option<u64>,
    /// Of the completion tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_tokens: Option<u64>,
}

/// Queues lines without blocking.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    lines: mpsc::Sender<Vec<u8>>,
    dropped: Counter,
}

impl AccessLog {
    /// The log and its writer. The writer runs until the log and its clones are dropped.
    pub(crate) fn new(
        dropped: Counter,
        out: impl AsyncWrite + Unpin + Send + 'static,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (lines, queue) = mpsc::channel(QUEUE_LINES);
        (Arc::new(Self { lines, dropped }), write(queue, out))
    }

    pub(crate) fn log(&self, line: &Line<'_>) {
        let Ok(permit) = self.lines.try_reserve() else {
            self.dropped.inc();
            return;
        };
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            permit.send(text);
        }
    }
}

async fn write(mut queue: mpsc::Receiver<Vec<u8>>, mut out: impl AsyncWrite + Unpin) {
    let mut lines = Vec::new();
    while queue.recv_many(&mut lines, QUEUE_LINES).await > 0 {
        let text = lines.concat();
        lines.clear();
        let written = async {
            out.write_all(&text).await?;
            out.flush().await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "cannot write the access log; no more lines are written");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn line(path: &str) -> Line<'_> {
        Line {
            time: 1.5,
            method: "POST",
            path,
            status: 200,
            error: None,
            model: "m",
            pool: "ns/p",
            api_key: Some("sales"),
            jwt_issuer: Some("https://idp"),
            jwt_subject: Some("alice"),
            endpoint: Some("10.0.0.1:8000".to_owned()),
            request_id: None,
            duration_seconds: 0.25,
            ttft_seconds: Some(0.125),
            response_bytes: 7,
            prompt_tokens: Some(3),
            completion_tokens: None,
            cached_tokens: Some(2),
            reasoning_tokens: None,
        }
    }

    #[tokio::test]
    async fn writes_one_json_line_per_request() {
        let (mut reader, writer) = tokio::io::duplex(1 << 20);
        let (log, writing) = AccessLog::new(Counter::default(), writer);
        log.log(&line("/v1/chat"));
        log.log(&line("/\"\n"));
        drop(log);
        writing.await;
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[1]["path"], "/\"\n");
        assert_eq!(
            lines[0],
            json!({
                "time": 1.5, "method": "POST", "path": "/v1/chat", "status": 200, "model": "m", "pool": "ns/p",
                "api_key": "sales",
                "jwt_issuer": "https://idp",
                "jwt_subject": "alice",
                "endpoint": "10.0.0.1:8000", "duration_seconds": 0.25, "ttft_seconds": 0.125, "response_bytes": 7,
                "prompt_tokens": 3, "cached_tokens": 2,
            })
        );
    }

    #[tokio::test]
    async fn drops_and_counts_lines_when_the_reader_is_slow() {
        let (_reader, writer) = tokio::io::duplex(1);
        let dropped = Counter::default();
        let (log, _never_run) = AccessLog::new(dropped.clone(), writer);
        for _ in 0..QUEUE_LINES + 3 {
            log.log(&line("/"));
        }
        assert_eq!(dropped.get(), 3);
    }
}
