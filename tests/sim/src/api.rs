//! Requests as vLLM takes them, and its answers' exact JSON.

use serde::Deserialize;
use serde_json::Value;

use crate::responses;

const FINGERPRINT: &str = "vllm-0.32.0-7ad24132";
const WORDS: [&str; 8] = [" the", " pool", " before", " a", " turbine", " holds", " still", " water"];
/// What is generated when nobody says how much.
const DEFAULT_MAX_TOKENS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
    Response,
}

/// A request that vLLM would run.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) model: String,
    pub(crate) prompt: String,
    pub(crate) max_tokens: u32,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// An answer other than 200.
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

/// Reads a request's body as vLLM 0.32 does, to the order of its complaints.
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
    // Python's parser takes the last of two equal keys; a map does, too.
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
        Kind::Completion => request.prompt.ok_or_else(|| missing("prompt"))?.to_string(),
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
    Ok(Job {
        kind,
        model,
        prompt,
        max_tokens: max_tokens as u32,
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

/// One answer's parts.
pub(crate) struct Answer<'a> {
    job: &'a Job,
    request_id: String,
    id: String,
    created: u64,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(job: &'a Job, request_id: &str, created: u64) -> Self {
        let prefix = match job.kind {
            Kind::Chat => "chatcmpl-",
            Kind::Completion => "cmpl-",
            Kind::Response => "resp_",
        };
        Self { job, request_id: request_id.to_owned(), id: format!("{prefix}{request_id}"), created }
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    pub(crate) fn model(&self) -> &str {
        &self.job.model
    }

    pub(crate) fn max_tokens(&self) -> u32 {
        self.job.max_tokens
    }

    /// All that is generated.
    pub(crate) fn text(&self) -> String {
        (0..self.job.max_tokens).map(word).collect()
    }

    /// The events that come with the first token, before it.
    pub(crate) fn opening(&self) -> Vec<String> {
        match self.job.kind {
            Kind::Response => responses::opening(self),
            Kind::Chat | Kind::Completion => {
                self.role().map(|role| format!("data: {role}")).into_iter().collect()
            }
        }
    }

    /// The event of one token.
    pub(crate) fn event(&self, index: u32) -> String {
        match self.job.kind {
            Kind::Response => responses::delta(self, index),
            Kind::Chat | Kind::Completion => format!("data: {}", self.token(index)),
        }
    }

    /// The events behind the last token.
    pub(crate) fn closing(&self, prompt_tokens: u32) -> Vec<String> {
        match self.job.kind {
            Kind::Response => responses::closing(self, prompt_tokens),
            Kind::Chat | Kind::Completion => {
                let usage =
                    self.job.include_usage.then(|| format!("data: {}", self.usage_chunk(prompt_tokens)));
                usage.into_iter().chain(["data: [DONE]".to_owned()]).collect()
            }
        }
    }

    fn head(&self, object: &str) -> String {
        let (id, created, model) = (&self.id, self.created, quoted(&self.job.model));
        format!(r#"{{"id":"{id}","object":"{object}","created":{created},"model":{model},"choices":["#)
    }

    /// Before the first token; completions have none.
    fn role(&self) -> Option<String> {
        (self.job.kind == Kind::Chat).then(|| {
            let head = self.head("chat.completion.chunk");
            format!(
                r#"{head}{{"index":0,"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}],"prompt_token_ids":null,"prompt_text":null}}"#
            )
        })
    }

    fn token(&self, index: u32) -> String {
        let text = quoted(word(index));
        let last = index + 1 == self.job.max_tokens;
        let finish = if last { "\"length\"" } else { "null" };
        let tail = if last { format!(r#","system_fingerprint":"{FINGERPRINT}"}}"#) } else { "}".to_owned() };
        match self.job.kind {
            Kind::Chat => {
                let head = self.head("chat.completion.chunk");
                let stop = if last { r#","stop_reason":null"# } else { "" };
                format!(
                    r#"{head}{{"index":0,"delta":{{"content":{text}}},"logprobs":null,"finish_reason":{finish}{stop},"token_ids":null}}]{tail}"#
                )
            }
            Kind::Completion | Kind::Response => {
                let head = self.head("text_completion");
                format!(
                    r#"{head}{{"index":0,"text":{text},"logprobs":null,"finish_reason":{finish},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]{tail}"#
                )
            }
        }
    }

    fn usage_chunk(&self, prompt_tokens: u32) -> String {
        let object = if self.job.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
        let (head, usage) = (self.head(object), self.usage(prompt_tokens));
        format!(r#"{head}],"usage":{{{usage}}},"system_fingerprint":"{FINGERPRINT}"}}"#)
    }

    pub(crate) fn whole(&self, prompt_tokens: u32) -> String {
        let (text, usage) = (quoted(&self.text()), self.usage(prompt_tokens));
        let nulls = r#""prompt_tokens_details":null,"completion_tokens_details":null}"#;
        match self.job.kind {
            Kind::Response => responses::object(self, Some(prompt_tokens)),
            Kind::Chat => {
                let head = self.head("chat.completion");
                format!(
                    r#"{head}{{"index":0,"message":{{"role":"assistant","content":{text},"refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null}},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"routed_experts":null}}],"service_tier":null,"system_fingerprint":"{FINGERPRINT}","usage":{{{usage},{nulls},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#
                )
            }
            Kind::Completion => {
                let head = self.head("text_completion");
                format!(
                    r#"{head}{{"index":0,"text":{text},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}}],"service_tier":null,"system_fingerprint":"{FINGERPRINT}","usage":{{{usage},{nulls},"kv_transfer_params":null}}"#
                )
            }
        }
    }

    fn usage(&self, prompt_tokens: u32) -> String {
        let completion = self.job.max_tokens;
        let total = prompt_tokens + completion;
        format!(r#""prompt_tokens":{prompt_tokens},"total_tokens":{total},"completion_tokens":{completion}"#)
    }
}

pub(crate) fn models(names: &[String], max_model_len: u32, created: u64) -> String {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            // The first is the model; others are adapters on it.
            let parent = if index == 0 { "null".to_owned() } else { quoted(&names[0]) };
            let name = quoted(name);
            format!(
                r#"{{"id":{name},"object":"model","created":{created},"owned_by":"vllm","root":{name},"parent":{parent},"max_model_len":{max_model_len},"permission":[]}}"#
            )
        })
        .collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","))
}

pub(crate) fn word(index: u32) -> &'static str {
    WORDS[index as usize % WORDS.len()]
}

pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_chat(body: &str) -> Result<Job, Failure> {
        parse(Kind::Chat, Some("application/json"), body.as_bytes(), &["Qwen/Qwen3-0.6B".into()], 2048)
    }

    /// The bodies recorded from vLLM 0.32.
    #[test]
    fn errors_are_those_that_were_recorded() {
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

    #[test]
    fn answers_are_those_that_were_recorded() {
        let job = parse_chat(r#"{"messages":[],"max_tokens":2,"stream":true}"#).unwrap();
        assert_eq!(job.model, "Qwen/Qwen3-0.6B", "no model is the default model");
        let answer = Answer::new(&job, "x", 7);
        assert_eq!(
            answer.role().unwrap(),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#
        );
        assert_eq!(
            answer.token(0),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#
        );
        assert_eq!(
            answer.token(1),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"content":" pool"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-7ad24132"}"#
        );
        assert_eq!(
            answer.usage_chunk(13),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[],"usage":{"prompt_tokens":13,"total_tokens":15,"completion_tokens":2},"system_fingerprint":"vllm-0.32.0-7ad24132"}"#
        );
        let asked = r#"{"input":"Hello","max_output_tokens":2}"#;
        let job =
            parse(Kind::Response, Some("application/json"), asked.as_bytes(), &["m".into()], 9).unwrap();
        let response = Answer::new(&job, "x", 7);
        let events: Vec<String> =
            [response.opening(), vec![response.event(0), response.event(1)], response.closing(15)].concat();
        for (sequence, event) in events.iter().enumerate() {
            let (kind, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(data["sequence_number"], sequence);
            assert_eq!(kind, format!("event: {}", data["type"].as_str().unwrap()));
        }
        assert_eq!(
            events[4],
            "event: response.output_text.delta\ndata: {\"content_index\":0,\"delta\":\" the\",\"item_id\":\"msg_x\",\"logprobs\":[],\"output_index\":0,\"sequence_number\":4,\"type\":\"response.output_text.delta\"}"
        );
        let object: Value = serde_json::from_str(&response.whole(15)).unwrap();
        assert_eq!(object["usage"]["total_tokens"], 17);
        assert_eq!(object["output"][0]["content"][0]["text"], " the pool");
        let whole: Value = serde_json::from_str(&answer.whole(11)).unwrap();
        assert_eq!(whole["choices"][0]["message"]["content"], " the pool");
        let models: Value = serde_json::from_str(&models(&["a".into(), "b".into()], 9, 7)).unwrap();
        assert_eq!(models["data"][1]["parent"], "a");
    }
}
