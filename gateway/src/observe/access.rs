//! The access log: one JSON object a line for each finished request, on standard output.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// Lines that may wait to be written; further ones are left out and counted.
const QUEUE_LINES: usize = 4096;

/// One finished request. It names no prompt, no query and no header of the client's but its request id.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    /// Seconds since 1970.
    pub(crate) time: f64,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// Where no model server answered: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'a str>,
    pub(crate) model: &'a str,
    /// The backend, an InferencePool or a Service.
    pub(crate) pool: &'a str,
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
}

/// Takes lines without ever waiting.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    lines: mpsc::Sender<Vec<u8>>,
    left_out: Counter,
}

impl AccessLog {
    /// The second is to be run until the first and its clones are gone.
    pub(crate) fn new(
        left_out: Counter,
        out: impl AsyncWrite + Unpin + Send + 'static,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (lines, queue) = mpsc::channel(QUEUE_LINES);
        (Arc::new(Self { lines, left_out }), write(queue, out))
    }

    pub(crate) fn log(&self, line: &Line<'_>) {
        let Ok(permit) = self.lines.try_reserve() else {
            self.left_out.inc();
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
            tracing::warn!(%error, "the access log cannot be written any more");
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
            endpoint: Some("10.0.0.1:8000".to_owned()),
            request_id: None,
            duration_seconds: 0.25,
            ttft_seconds: Some(0.125),
            response_bytes: 7,
            prompt_tokens: Some(3),
            completion_tokens: None,
        }
    }

    #[tokio::test]
    async fn each_request_is_a_line_of_json() {
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
                "endpoint": "10.0.0.1:8000", "duration_seconds": 0.25, "ttft_seconds": 0.125, "response_bytes": 7,
                "prompt_tokens": 3,
            })
        );
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_costs_lines_and_nothing_else() {
        let (_reader, writer) = tokio::io::duplex(1);
        let left_out = Counter::default();
        let (log, _never_run) = AccessLog::new(left_out.clone(), writer);
        for _ in 0..QUEUE_LINES + 3 {
            log.log(&line("/"));
        }
        assert_eq!(left_out.get(), 3);
    }
}
