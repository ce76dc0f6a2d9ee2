//! The Responses API's objects and events, as recorded from vLLM 0.32.

use serde_json::{Value, json};

use crate::api::{Answer, quoted, word};

/// What a plain response leaves empty.
const NULLS: &str =
    r#""kv_transfer_params":null,"ec_transfer_params":null,"input_messages":null,"output_messages":null"#;

/// The text of an event with this payload.
fn event(kind: &str, sequence: u32, payload: &str) -> String {
    format!("event: {kind}\ndata: {{{payload},\"sequence_number\":{sequence},\"type\":\"{kind}\"}}")
}

/// Where the text stands in the response.
fn place(answer: &Answer<'_>) -> String {
    format!(r#""item_id":"msg_{}","output_index":0"#, answer.request_id())
}

fn part(text: &str, logprobs: &str) -> String {
    format!(r#"{{"annotations":[],"text":{},"type":"output_text","logprobs":{logprobs}}}"#, quoted(text))
}

fn item(answer: &Answer<'_>, content: &str, status: &str) -> String {
    format!(
        r#"{{"id":"msg_{}","content":[{content}],"role":"assistant","status":"{status}","type":"message","phase":null}}"#,
        answer.request_id()
    )
}

/// The response object; with the prompt's tokens when it has ended.
pub(crate) fn object(answer: &Answer<'_>, ended: Option<u32>) -> String {
    let (model, output_tokens) = (quoted(answer.model()), answer.max_tokens());
    let (reason, output, status, usage) = match ended {
        None => ("null".to_owned(), String::new(), "in_progress", Value::Null),
        Some(input_tokens) => (
            // Everything here ends because it may say no more.
            r#"{"reason":"max_output_tokens"}"#.to_owned(),
            item(answer, &part(&answer.text(), "null"), "completed"),
            "incomplete",
            json!({
                "input_tokens": input_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "input_tokens_per_turn": [], "cached_tokens_per_turn": []},
                "output_tokens": output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0, "output_tokens_per_turn": [], "tool_output_tokens_per_turn": []},
                "total_tokens": input_tokens + output_tokens,
            }),
        ),
    };
    format!(
        r#"{{"id":"{}","created_at":{},"incomplete_details":{reason},"instructions":null,"metadata":null,"model":{model},"object":"response","output":[{output}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"none","tools":[],"top_p":1.0,"background":false,"max_output_tokens":{output_tokens},"max_tool_calls":null,"previous_response_id":null,"prompt":null,"reasoning":null,"service_tier":"auto","status":"{status}","text":null,"top_logprobs":null,"truncation":"disabled","usage":{usage},"user":null,"presence_penalty":0.0,"frequency_penalty":0.0,{NULLS}}}"#,
        answer.id(),
        answer.created(),
    )
}

pub(crate) fn opening(answer: &Answer<'_>) -> Vec<String> {
    let response = format!(r#""response":{}"#, object(answer, None));
    vec![
        event("response.created", 0, &response),
        event("response.in_progress", 1, &response),
        event(
            "response.output_item.added",
            2,
            &format!(r#""item":{},"output_index":0"#, item(answer, "", "in_progress")),
        ),
        event(
            "response.content_part.added",
            3,
            &format!(r#""content_index":0,{},"part":{}"#, place(answer), part("", "[]")),
        ),
    ]
}

const FIRST_DELTA: u32 = 4;

pub(crate) fn delta(answer: &Answer<'_>, index: u32) -> String {
    let payload = format!(
        r#""content_index":0,"delta":{},"item_id":"msg_{}","logprobs":[],"output_index":0"#,
        quoted(word(index)),
        answer.request_id()
    );
    event("response.output_text.delta", FIRST_DELTA + index, &payload)
}

pub(crate) fn closing(answer: &Answer<'_>, prompt_tokens: u32) -> Vec<String> {
    let (text, next) = (answer.text(), FIRST_DELTA + answer.max_tokens());
    let whole = part(&text, "null");
    vec![
        event(
            "response.output_text.done",
            next,
            &format!(
                r#""content_index":0,"item_id":"msg_{}","logprobs":[],"output_index":0,"text":{}"#,
                answer.request_id(),
                quoted(&text)
            ),
        ),
        event(
            "response.content_part.done",
            next + 1,
            &format!(r#""content_index":0,{},"part":{whole}"#, place(answer)),
        ),
        event(
            "response.output_item.done",
            next + 2,
            &format!(r#""item":{},"output_index":0"#, item(answer, &whole, "completed")),
        ),
        event(
            "response.completed",
            next + 3,
            &format!(r#""response":{}"#, object(answer, Some(prompt_tokens))),
        ),
    ]
}
