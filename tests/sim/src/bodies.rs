//! JSON bodies and stream events of the chat and completions APIs, and the list of models, as recorded from
//! vLLM 0.32. Requests to the Responses API are rendered by [`crate::responses_api`].

use crate::{
    output::{Output, word},
    request::{Kind, quoted},
    responses_api,
};

const FINGERPRINT: &str = "vllm-0.32.0-7ad24132";

impl Output<'_> {
    /// Events that are sent with the first token, before it.
    pub(crate) fn opening(&self) -> Vec<String> {
        match self.job.kind {
            Kind::Response => responses_api::opening(self),
            Kind::Chat | Kind::Completion => {
                self.role().map(|role| format!("data: {role}")).into_iter().collect()
            }
        }
    }

    /// The event of one token.
    pub(crate) fn event(&self, index: u32) -> String {
        match self.job.kind {
            Kind::Response => responses_api::delta(self, index),
            Kind::Chat | Kind::Completion => format!("data: {}", self.token(index)),
        }
    }

    /// Events after the last token.
    pub(crate) fn closing(&self, prompt_tokens: u32) -> Vec<String> {
        match self.job.kind {
            Kind::Response => responses_api::closing(self, prompt_tokens),
            Kind::Chat | Kind::Completion => {
                let usage =
                    self.job.include_usage.then(|| format!("data: {}", self.usage_chunk(prompt_tokens)));
                usage.into_iter().chain(["data: [DONE]".to_owned()]).collect()
            }
        }
    }

    fn head(&self, object: &str) -> String {
        let (id, created, model) = (self.id(), self.created(), quoted(&self.job.model));
        format!(r#"{{"id":"{id}","object":"{object}","created":{created},"model":{model},"choices":["#)
    }

    /// The chunk with the role, before the first token. Chat only.
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

    /// Body of a response without streaming.
    pub(crate) fn whole(&self, prompt_tokens: u32) -> String {
        let (text, usage) = (quoted(&self.text()), self.usage(prompt_tokens));
        let nulls = r#""prompt_tokens_details":null,"completion_tokens_details":null}"#;
        match self.job.kind {
            Kind::Response => responses_api::object(self, Some(prompt_tokens)),
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

/// Body of `GET /v1/models`.
pub(crate) fn models(names: &[String], max_model_len: u32, created: u64) -> String {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            // The first name is the model, the others are LoRA adapters of it.
            let parent = if index == 0 { "null".to_owned() } else { quoted(&names[0]) };
            let name = quoted(name);
            format!(
                r#"{{"id":{name},"object":"model","created":{created},"owned_by":"vllm","root":{name},"parent":{parent},"max_model_len":{max_model_len},"permission":[]}}"#
            )
        })
        .collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::request::{Job, parse};

    fn parse_chat(body: &str) -> Job {
        parse(Kind::Chat, Some("application/json"), body.as_bytes(), &["Qwen/Qwen3-0.6B".into()], 2048)
            .unwrap()
    }

    #[test]
    fn responses_match_the_recorded_bodies() {
        let job = parse_chat(r#"{"messages":[],"max_tokens":2,"stream":true}"#);
        assert_eq!(job.model, "Qwen/Qwen3-0.6B", "a request without a model uses the default model");
        let output = Output::new(&job, "x", 7);
        assert_eq!(
            output.role().unwrap(),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#
        );
        assert_eq!(
            output.token(0),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#
        );
        assert_eq!(
            output.token(1),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[{"index":0,"delta":{"content":" pool"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"vllm-0.32.0-7ad24132"}"#
        );
        assert_eq!(
            output.usage_chunk(13),
            r#"{"id":"chatcmpl-x","object":"chat.completion.chunk","created":7,"model":"Qwen/Qwen3-0.6B","choices":[],"usage":{"prompt_tokens":13,"total_tokens":15,"completion_tokens":2},"system_fingerprint":"vllm-0.32.0-7ad24132"}"#
        );
        let body = r#"{"input":"Hello","max_output_tokens":2}"#;
        let job = parse(Kind::Response, Some("application/json"), body.as_bytes(), &["m".into()], 9).unwrap();
        let response = Output::new(&job, "x", 7);
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
        let whole: Value = serde_json::from_str(&output.whole(11)).unwrap();
        assert_eq!(whole["choices"][0]["message"]["content"], " the pool");
        let models: Value = serde_json::from_str(&models(&["a".into(), "b".into()], 9, 7)).unwrap();
        assert_eq!(models["data"][1]["parent"], "a");
    }
}
