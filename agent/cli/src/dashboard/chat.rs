//! Prompts of the page, sent through the gateway.
//!
//! The response is a stream of server-sent events: `head` with status and explanation, then those of the gateway as they are,
//! then `end`. Prompts, responses and API keys are in no log and in no error.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use forebay_routing::EXPLAIN;
use futures_util::stream;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};

use super::response::{Body, error, events};
use crate::{
    explain::{self, UNTRUSTED},
    gateway::Gateway,
};

/// Maximum prompts in flight.
const MAX_IN_FLIGHT: usize = 8;
/// Maximum bytes of a request of the page: the prompt as JSON.
const MAX_BYTES: usize = 256 << 10;
/// Longest wait for the response head of the gateway. A prompt can wait for a place in an engine.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Bounds of the tokens of a response.
const TOKENS: std::ops::RangeInclusive<u32> = 1..=8192;
const PATH: &str = "/v1/chat/completions";

/// The gateway that prompts are sent to.
#[derive(Debug)]
pub(super) struct Chat {
    gateway: Gateway,
    host: Option<String>,
    authority: Option<PathBuf>,
    places: Arc<Semaphore>,
}

/// A request of the page. Not `Debug`: it has the prompt and the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Prompt {
    model: String,
    prompt: String,
    max_tokens: u32,
    #[serde(default)]
    api_key: String,
}

/// A response of the gateway that has begun.
struct Started {
    response: Response<Incoming>,
    /// Drives the connection until dropped.
    connection: JoinSet<()>,
    at: Instant,
}

impl Chat {
    pub(super) fn new(gateway: Gateway, host: Option<String>, authority: Option<PathBuf>) -> Self {
        Self { gateway, host, authority, places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) }
    }

    /// Responds to a POST of the page.
    pub(super) async fn respond(&self, body: Incoming) -> Response<Body> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return error(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_prompts",
                "8 prompts are in flight, which is the maximum: wait for one, or stop it",
            );
        };
        let Ok(body) = Limited::new(body, MAX_BYTES).collect().await else {
            return error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "prompt_too_large",
                "the prompt must be at most 256 KiB",
            );
        };
        let prompt = match parse(&body.to_bytes()) {
            Ok(prompt) => prompt,
            Err(message) => return error(StatusCode::BAD_REQUEST, "invalid_prompt", message),
        };
        let started = match timeout(HEAD_TIMEOUT, self.send(&prompt)).await {
            Ok(Ok(started)) => started,
            Ok(Err(cause)) => {
                return error(StatusCode::BAD_GATEWAY, "gateway_failed", &format!("{cause:#}"));
            }
            Err(_) => {
                let message = format!("no response of {} within {HEAD_TIMEOUT:?}", self.gateway);
                return error(StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", &message);
            }
        };
        events(relay(started, place).await)
    }

    async fn send(&self, prompt: &Prompt) -> anyhow::Result<Started> {
        let gateway = &self.gateway;
        let host = self.host.as_deref().unwrap_or(gateway.authority());
        let request = request(prompt, host)?;
        let stream = gateway.connect(host, self.authority.as_deref()).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Its error is also the error of the body.
            let _ = connection.await;
        });
        let at = Instant::now();
        let response =
            sender.send_request(request).await.with_context(|| format!("no response of {gateway}"))?;
        Ok(Started { response, connection: tasks, at })
    }
}

fn request(prompt: &Prompt, host: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    let body = json!({
        "model": prompt.model,
        "messages": [{ "role": "user", "content": prompt.prompt }],
        "max_tokens": prompt.max_tokens,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let mut request = Request::post(PATH)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .header(EXPLAIN, "1")
        .body(Full::new(Bytes::from(body.to_string())))
        .context("--gateway-host must be a hostname")?;
    if !prompt.api_key.is_empty() {
        let Ok(mut key) = HeaderValue::try_from(format!("Bearer {}", prompt.api_key)) else {
            bail!("the API key has characters that a header cannot have");
        };
        key.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, key);
    }
    Ok(request)
}

/// The text of an error says nothing about the values.
fn parse(body: &[u8]) -> Result<Prompt, &'static str> {
    let Ok(prompt) = serde_json::from_slice::<Prompt>(body) else {
        return Err(
            "the request must have the strings model and prompt, and the number maxTokens; apiKey is optional",
        );
    };
    match prompt {
        Prompt { model, .. } if model.is_empty() => Err("the model is missing"),
        Prompt { prompt, .. } if prompt.is_empty() => Err("the prompt is missing"),
        Prompt { max_tokens, .. } if !TOKENS.contains(&max_tokens) => Err("maxTokens must be from 1 to 8192"),
        prompt => Ok(prompt),
    }
}

async fn relay(started: Started, place: OwnedSemaphorePermit) -> Body {
    let Started { response, connection, at } = started;
    let status = response.status();
    let (explanation, advice) = match explain::explanation(response.headers()) {
        Ok(Some(explanation)) => (Some(explanation), None),
        Ok(None) => (None, Some(format!("The gateway did not explain its decision: {UNTRUSTED}."))),
        Err(cause) => (None, Some(format!("{cause:#}"))),
    };
    let mut head = json!({
        "status": status.as_u16(),
        "explanation": explanation,
        "advice": advice,
        "error": Value::Null,
    });
    let body = if status.is_success() {
        Some(response.into_body())
    } else {
        head["error"] = explain::error(response.into_body()).await.into();
        None
    };
    let relay = Relay { head: Some(event("head", &head)), body, connection, place, at };
    StreamBody::new(stream::unfold(Some(relay), next)).boxed_unsync()
}

/// What is still to be sent to the page.
struct Relay {
    head: Option<Bytes>,
    body: Option<Incoming>,
    connection: JoinSet<()>,
    place: OwnedSemaphorePermit,
    at: Instant,
}

/// The next frame. `None` as the state: everything was sent.
async fn next(relay: Option<Relay>) -> Option<(anyhow::Result<Frame<Bytes>>, Option<Relay>)> {
    let mut relay = relay?;
    if let Some(head) = relay.head.take() {
        return Some((Ok(Frame::data(head)), Some(relay)));
    }
    let error = loop {
        let Some(body) = &mut relay.body else { break None };
        match body.frame().await {
            // Trailers are not for the page.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Some((Ok(Frame::data(data)), Some(relay)));
                }
            }
            Some(Err(_)) => break Some("the response broke off"),
            None => break None,
        }
    };
    let Relay { connection, place, at, .. } = relay;
    drop((connection, place));
    let end = event("end", &json!({ "seconds": at.elapsed().as_secs_f64(), "error": error }));
    Some((Ok(Frame::data(end)), None))
}

/// Starts with an empty line: the event before it may be incomplete.
fn event(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("\n\nevent: {name}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_prompt_do_not_repeat_it() {
        for (body, expected) in [
            (r#"{"model":"m","prompt":"secret","maxTokens":9}"#, None),
            (r#"{"model":"m","prompt":"secret","maxTokens":9,"apiKey":"k"}"#, None),
            (r#"{"model":"m","prompt":"secret"}"#, Some("the request must have")),
            (r#"{"model":"m","prompt":["secret"],"maxTokens":9}"#, Some("the request must have")),
            (r#"{"model":"m","prompt":"secret","maxTokens":9,"a":1}"#, Some("the request must have")),
            (r#"{"model":"","prompt":"secret","maxTokens":9}"#, Some("the model is missing")),
            (r#"{"model":"m","prompt":"","maxTokens":9}"#, Some("the prompt is missing")),
            (r#"{"model":"m","prompt":"secret","maxTokens":0}"#, Some("maxTokens must be")),
            ("secret", Some("the request must have")),
        ] {
            let error = parse(body.as_bytes()).err();
            assert!(error.is_none_or(|error| !error.contains("secret")), "{body}");
            assert_eq!(
                error.map(|error| error.starts_with(expected.unwrap_or("?"))),
                expected.map(|_| true),
                "{body}"
            );
        }
    }
}
