//! Parses request bodies as vLLM 0.32 does, with its exact error bodies.

use serde::Deserialize;
use serde_json::Value;

/// `max_tokens` of a request that sets none.
const DEFAULT_MAX_TOKENS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
    Response,
}

/// A valid generation request.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) model: String,
    pub(crate) prompt: String,
    /// Tokens of the output.
    pub(crate) max_tokens: u32,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// A response with a status other than 200.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    pub(crate) body: String,
}

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<Value>>,
    prompt: Option<Value>,
    input: Option<Value>,
    max_output_tokens: Option<i64>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    temperature: Option<f64>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    vllm_xargs: Option<Xargs>,
}

/// vLLM passes these to extensions. The simulator reads one of its own.
#[derive(Deserialize)]
struct Xargs {
    /// Tokens after which the model ends its output. Without it, the output has `max_tokens`.
    output_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

pub(crate) fn failure(status: u16, message: &str, kind: &str, param: Option<&str>) -> Failure {
    let reason = match status {
        400 => "Bad Request",
        404 => "Not Found",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let param = param.map_or_else(|| "null".to_owned(), quoted);
    let body = format!(
        r#"{{"error":{{"message":{},"type":{},"param":{param},"code":{status}}}}}"#,
        quoted(message),
        quoted(kind)
    );
    Failure { status, reason, body }
}

pub(crate) fn busy() -> Failure {
    failure(
        503,
        "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.",
        "Service Unavailable",
        None,
    )
}

/// Parses a request body. Checks run in the order of vLLM 0.32, so that the first error is the same.
pub(crate) fn parse(
    kind: Kind,
    content_type: Option<&str>,
    body: &[u8],
    models: &[String],
    max_model_len: u32,
) -> Result<Job, Failure> {
    let is_json =
        content_type.is_some_and(|it| it.split(';').next().is_some_and(|it| it.trim() == "application/json"));
    if !is_json {
        let message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed";
        return Err(failure(400, message, "Bad Request", None));
    }
    let invalid = |error: serde_json::Error| {
        let at = format!("body.{}", error.column());
        let message = format!(
            "1 validation error:\n  {{'type': 'json_invalid', 'loc': '{at}', 'msg': 'JSON decode error', 'input': \
             '<dict of 0 items>', 'ctx': {{'error': 'Expecting value'}}}}"
        );
        failure(400, &message, "Bad Request", Some(&at))
    };
    // Duplicate keys: the last one wins, as in Python's parser.
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(body).map_err(invalid)?;
    let count = fields.len();
    let request: Body = serde_json::from_value(Value::Object(fields)).map_err(invalid)?;
    let missing = |field: &str| {
        let message = format!(
            "1 validation error:\n  {{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required', 'input': \
             '<dict of {count} items>'}}"
        );
        failure(400, &message, "Bad Request", Some(&format!("body.{field}")))
    };
    let prompt = match kind {
        Kind::Chat => Value::Array(request.messages.ok_or_else(|| missing("messages"))?).to_string(),
        Kind::Completion => match request.prompt.ok_or_else(|| missing("prompt"))? {
            Value::String(text) => text,
            other => other.to_string(),
        },
        Kind::Response => request.input.ok_or_else(|| missing("input"))?.to_string(),
    };
    let default_model = models.first().cloned().unwrap_or_default();
    let model = request.model.filter(|model| !model.is_empty()).unwrap_or(default_model);
    if !models.contains(&model) {
        return Err(not_found(&model, models));
    }
    if let Some(temperature) = request.temperature.filter(|temperature| *temperature < 0.0) {
        let message = format!(
            "temperature must be non-negative, got {temperature:?}. (parameter=temperature, value={temperature:?})"
        );
        return Err(failure(400, &message, "BadRequestError", Some("temperature")));
    }
    let max_tokens = request
        .max_completion_tokens
        .or(request.max_tokens)
        .or(request.max_output_tokens)
        .unwrap_or(i64::from(DEFAULT_MAX_TOKENS));
    if max_tokens < 1 {
        let message = format!(
            "max_tokens must be at least 1, got {max_tokens}. (parameter=max_tokens, value={max_tokens})"
        );
        return Err(failure(400, &message, "BadRequestError", Some("max_tokens")));
    }
    if max_tokens > i64::from(max_model_len) {
        let message = format!(
            "max_tokens={max_tokens} cannot be greater than max_model_len={max_model_len}. Please request fewer output \
             tokens. (parameter=max_tokens, value={max_tokens})"
        );
        return Err(failure(400, &message, "BadRequestError", Some("max_tokens")));
    }
    let ends_after = request.vllm_xargs.and_then(|xargs| xargs.output_tokens).unwrap_or(u32::MAX);
    Ok(Job {
        kind,
        model,
        prompt,
        max_tokens: (max_tokens as u32).min(ends_after.max(1)),
        stream: request.stream,
        include_usage: request.stream_options.is_some_and(|options| options.include_usage),
    })
}

pub(crate) fn not_found(model: &str, models: &[String]) -> Failure {
    let message = format!("The model `{model}` does not exist. Valid aliases: {}.", models.join(", "));
    failure(404, &message, "NotFoundError", Some("model"))
}

pub(crate) fn too_long(tokens: u32, max_model_len: u32) -> Failure {
    let message = format!(
        "This model's maximum context length is {max_model_len} tokens. However, your prompt contains at least {tokens} \
         input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input \
         prompt. (parameter=input_tokens, value={tokens})"
    );
    failure(400, &message, "BadRequestError", Some("input_tokens"))
}

/// The text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_chat(body: &str) -> Result<Job, Failure> {
        parse(Kind::Chat, Some("application/json"), body.as_bytes(), &["Qwen/Qwen3-0.6B".into()], 2048)
    }

    /// Expected bodies were recorded from vLLM 0.32.
    #[test]
    fn errors_match_the_recorded_bodies() {
        for (body, expected) in [
            (
                r#"{"model":"nope","messages":[]}"#,
                r#"{"error":{"message":"The model `nope` does not exist. Valid aliases: Qwen/Qwen3-0.6B.","type":"NotFoundError","param":"model","code":404}}"#,
            ),
            (
                r#"{"model":"Qwen/Qwen3-0.6B"}"#,
                r#"{"error":{"message":"1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of 1 items>'}","type":"Bad Request","param":"body.messages","code":400}}"#,
            ),
            (
                r#"{"messages":[],"max_tokens":99999}"#,
                r#"{"error":{"message":"max_tokens=99999 cannot be greater than max_model_len=2048. Please request fewer output tokens. (parameter=max_tokens, value=99999)","type":"BadRequestError","param":"max_tokens","code":400}}"#,
            ),
            (
                r#"{"messages":[],"max_tokens":-1}"#,
                r#"{"error":{"message":"max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)","type":"BadRequestError","param":"max_tokens","code":400}}"#,
            ),
            (
                r#"{"messages":[],"temperature":-3}"#,
                r#"{"error":{"message":"temperature must be non-negative, got -3.0. (parameter=temperature, value=-3.0)","type":"BadRequestError","param":"temperature","code":400}}"#,
            ),
        ] {
            assert_eq!(parse_chat(body).unwrap_err().body, expected);
        }
        assert_eq!(parse_chat("{\"a\":").unwrap_err().status, 400);
        let failure = parse(Kind::Chat, Some("text/plain"), b"{}", &[], 1).unwrap_err();
        assert_eq!(
            failure.body,
            r#"{"error":{"message":"1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed","type":"Bad Request","param":null,"code":400}}"#
        );
    }
}
