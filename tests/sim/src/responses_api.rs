//! Objects and stream events of the Responses API, as recorded from vLLM 0.32.

use serde_json::{Value, json};

use crate::{
    output::{Output, word},
    request::quoted,
};

/// Fields that vLLM writes as null.
const NULLS: &str =
    r#""kv_transfer_params":null,"ec_transfer_params":null,"input_messages":null,"output_messages":null"#;

/// A server-sent event with this payload.
fn event(kind: &str, sequence: u32, payload: &str) -> String {
    format!("event: {kind}\ndata: {{{payload},\"sequence_number\":{sequence},\"type\":\"{kind}\"}}")
}

/// Fields that identify the output item.
fn item_fields(output: &Output<'_>) -> String {
    format!(r#""item_id":"msg_{}","output_index":0"#, output.request_id())
}

fn part(text: &str, logprobs: &str) -> String {
    format!(r#"{{"annotations":[],"text":{},"type":"output_text","logprobs":{logprobs}}}"#, quoted(text))
}

fn item(output: &Output<'_>, content: &str, status: &str) -> String {
    format!(
        r#"{{"id":"msg_{}","content":[{content}],"role":"assistant","status":"{status}","type":"message","phase":null}}"#,
        output.request_id()
    )
}

/// The response object. `ended`: number of prompt tokens, once the response is complete.
pub(crate) fn object(output: &Output<'_>, ended: Option<u32>) -> String {
    let (model, output_tokens) = (quoted(output.model()), output.max_tokens());
    let (reason, items, status, usage) = match ended {
        None => ("null".to_owned(), String::new(), "in_progress", Value::Null),
        Some(input_tokens) => (
            // Every response ends at its token limit.
            r#"{"reason":"max_output_tokens"}"#.to_owned(),
            item(output, &part(&output.text(), "null"), "completed"),
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
        r#"{{"id":"{}","created_at":{},"incomplete_details":{reason},"instructions":null,"metadata":null,"model":{model},"object":"response","output":[{items}],"parallel_tool_calls":true,"temperature":1.0,"tool_choice":"none","tools":[],"top_p":1.0,"background":false,"max_output_tokens":{output_tokens},"max_tool_calls":null,"previous_response_id":null,"prompt":null,"reasoning":null,"service_tier":"auto","status":"{status}","text":null,"top_logprobs":null,"truncation":"disabled","usage":{usage},"user":null,"presence_penalty":0.0,"frequency_penalty":0.0,{NULLS}}}"#,
        output.id(),
        output.created(),
    )
}

pub(crate) fn opening(output: &Output<'_>) -> Vec<String> {
    let response = format!(r#""response":{}"#, object(output, None));
    vec![
        event("response.created", 0, &response),
        event("response.in_progress", 1, &response),
        event(
            "response.output_item.added",
            2,
            &format!(r#""item":{},"output_index":0"#, item(output, "", "in_progress")),
        ),
        event(
            "response.content_part.added",
            3,
            &format!(r#""content_index":0,{},"part":{}"#, item_fields(output), part("", "[]")),
        ),
    ]
}

const FIRST_DELTA: u32 = 4;

pub(crate) fn delta(output: &Output<'_>, index: u32) -> String {
    let payload = format!(
        r#""content_index":0,"delta":{},"item_id":"msg_{}","logprobs":[],"output_index":0"#,
        quoted(word(index)),
        output.request_id()
    );
    event("response.output_text.delta", FIRST_DELTA + index, &payload)
}

pub(crate) fn closing(output: &Output<'_>, prompt_tokens: u32) -> Vec<String> {
    let (text, next) = (output.text(), FIRST_DELTA + output.max_tokens());
    let whole = part(&text, "null");
    vec![
        event(
            "response.output_text.done",
            next,
            &format!(
                r#""content_index":0,"item_id":"msg_{}","logprobs":[],"output_index":0,"text":{}"#,
                output.request_id(),
                quoted(&text)
            ),
        ),
        event(
            "response.content_part.done",
            next + 1,
            &format!(r#""content_index":0,{},"part":{whole}"#, item_fields(output)),
        ),
        event(
            "response.output_item.done",
            next + 2,
            &format!(r#""item":{},"output_index":0"#, item(output, &whole, "completed")),
        ),
        event(
            "response.completed",
            next + 3,
            &format!(r#""response":{}"#, object(output, Some(prompt_tokens))),
        ),
    ]
}
