//! Requests that the client sends.

use std::{
    fmt,
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};

use crate::{MODEL, tls};

/// API key of all requests.
pub(crate) const KEY: &str = "none";

/// Position of `model` in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Before the messages, as newer SDKs write it.
    ModelFirst,
    /// After the messages, as openai-python up to 3.20 writes it.
    ModelLast,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ModelFirst => "model_first",
            Self::ModelLast => "model_last",
        })
    }
}

/// A serialised request: head and body.
#[derive(Clone, Debug)]
pub(crate) struct RawRequest {
    pub(crate) bytes: Vec<u8>,
}

impl RawRequest {
    /// A chat request with a body of `body_bytes`.
    pub(crate) fn chat(body_bytes: usize, order: Order) -> Self {
        Self::post(body(body_bytes, order).as_bytes(), "")
    }

    /// Like [`RawRequest::chat`], with a gzip body.
    pub(crate) fn gzip_chat(body_bytes: usize, order: Order) -> io::Result<Self> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(body(body_bytes, order).as_bytes())?;
        Ok(Self::post(&gzip.finish()?, "Content-Encoding: gzip\r\n"))
    }

    fn post(body: &[u8], fields: &str) -> Self {
        let host = tls::HOST;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Authorization: Bearer {KEY}\r\nAccept: */*\r\nUser-Agent: bench\r\n{fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        Self { bytes: [head.as_bytes(), body].concat() }
    }
}

fn body(bytes: usize, order: Order) -> String {
    const PROSE: &str = "the quick brown fox jumps over the lazy dog and runs on to say that water finds ";
    let model = format!(r#""model":"{MODEL}""#);
    let messages = |content: &str| format!(r#""messages":[{{"role":"user","content":"{content}"}}]"#);
    let content_bytes = bytes.saturating_sub(model.len() + messages("").len() + 3);
    let content: String = PROSE.chars().cycle().take(content_bytes).collect();
    let messages = messages(&content);
    match order {
        Order::ModelFirst => format!("{{{model},{messages}}}"),
        Order::ModelLast => format!("{{{messages},{model}}}"),
    }
}
