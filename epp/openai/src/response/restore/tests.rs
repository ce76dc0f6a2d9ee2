use http::HeaderValue;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const CLIENT_MODEL: &str = "my \"model\"";

fn restore(content_type: &'static str) -> Restore {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("1"));
    let restore = Restore::new(&mut headers, &ModelName::parse(CLIENT_MODEL.as_bytes()).unwrap()).unwrap();
    assert!(!headers.contains_key(header::CONTENT_LENGTH));
    restore
}

/// Feeds the response in pieces that end at `cuts`, and joins the output.
fn restored(content_type: &'static str, body: &str, cuts: &[usize]) -> String {
    let mut restore = restore(content_type);
    let body = Bytes::copy_from_slice(body.as_bytes());
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.min(&body.len())).collect();
    cuts.sort_unstable();
    let (mut from, mut out) = (0, Vec::new());
    for to in cuts.into_iter().chain([body.len()]) {
        out.extend_from_slice(&restore.feed(body.slice(from..to)));
        from = to;
    }
    String::from_utf8(out).unwrap()
}

fn every_byte(body: &str) -> Vec<usize> {
    (0..body.len()).collect()
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";

/// Name, media type, response. `@` marks a model value that is replaced.
const CORPUS: &[(&str, &str, &str)] = &[
    (
        "a chat completion",
        JSON,
        r#"{"id":"c","object":"chat.completion","model":@,"choices":[{"message":{"content":"hi"}}]}"#,
    ),
    ("the model last", JSON, r#"{"choices":[{"model":"x"}],"usage":{"model":"x"},"model":@}"#),
    ("whitespace", JSON, " {\r\n\t\"model\" \n: @ , \"a\" : 1.5e3 , \"b\" : null } \n"),
    ("an escaped key", JSON, r#"{"\u006dodel":@,"Model":"x","models":"y","mode":"z"}"#),
    ("a key with more escapes", JSON, r#"{"a\"b\\":"x","\ud83d\ude00":"y","model":@}"#),
    ("two", JSON, r#"{"model":@,"a":[],"model":@}"#),
    ("no string", JSON, r#"{"model":null,"a":{"model":"x"}}"#),
    ("an object", JSON, r#"{"model":{"model":"x"},"response":{"model":"x"}}"#),
    (
        "generated text",
        JSON,
        r#"{"model":@,"choices":[{"text":"{\"model\":\"x\"} \\\"model\\\":\"x\""}],"text":"\"model\":\"x\""}"#,
    ),
    ("no object", JSON, r#"[{"model":"x"}]"#),
    ("broken", JSON, r#"{"a" "model":"x"}"#),
    ("after its end", JSON, r#"{"model":@}{"model":"x"}"#),
    (
        "chat events",
        EVENTS,
        concat!(
            "data: {\"id\":\"c\",\"model\":@,\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
            ": keep-alive\n\n",
            "data:{\"model\":@,\"choices\":[{\"delta\":{\"content\":\"{\\\"model\\\":\\\"x\\\"}\"}}]}\r\n\r\n",
            "data: [DONE]\n\n",
        ),
    ),
    (
        "events of the Responses API",
        EVENTS,
        concat!(
            "event: response.created\n",
            "data: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"model\":@,\"a\":{\"model\":\"x\"}},\"model\":@}\n\n",
            "event: response.output_text.delta\n",
            "data: {\"delta\":\"\\\"model\\\":\\\"x\\\"\",\"response\":[{\"model\":\"x\"}]}\n\n",
            "data: {\"response\":{\"response\":{\"model\":\"x\"},\"model\":@}}\n\n",
        ),
    ),
    (
        "events of the Messages API",
        EVENTS,
        concat!(
            "event: message_start\n",
            "data: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"model\":@,\"content\":[]}}\n\n",
            "event: content_block_delta\n",
            "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"\\\"model\\\":\\\"x\\\"\",\"model\":\"x\"}}\n\n",
            "event: error\ndata: {\"error\":{\"model\":\"x\"},\"message\":\"no\",\"model\":@}\n\n",
        ),
    ),
    ("a message that is not an event", JSON, r#"{"message":{"model":"x"},"model":@}"#),
    (
        "data in several lines",
        EVENTS,
        "data: {\"a\":1,\ndata: \"model\":\ndata: @}\nid: 1\n\ndata: {\"model\":@}\n\n",
    ),
    ("lines that end with carriage returns", EVENTS, "data: {\"model\":@}\r\rdata: {\"model\":@}\r\r"),
    (
        "other fields",
        EVENTS,
        "event: {\"model\":\"x\"}\ndatas: {\"model\":\"x\"}\n: data: {\"model\":\"x\"}\n\n",
    ),
    ("an event that is cut off", EVENTS, "data: {\"a\":{\n\ndata: {\"model\":@}\n\n"),
    ("the end of a stream", EVENTS, "data: {\"a\":1,\"model\":@"),
];

#[test]
fn replaces_the_model_and_changes_no_other_byte() {
    let as_json = serde_json::to_string(CLIENT_MODEL).unwrap();
    for (name, content_type, template) in CORPUS {
        for served in [r#""served""#, r#""""#, r#""a\"b\\""#, r#""\u0061\/b""#] {
            let body = template.replace('@', served);
            let expected = template.replace('@', &as_json);
            assert_eq!(restored(content_type, &body, &[]), expected, "{name}, {served}");
            assert_eq!(restored(content_type, &body, &every_byte(&body)), expected, "{name}, byte by byte");
            for cut in 0..body.len() {
                assert_eq!(restored(content_type, &body, &[cut]), expected, "{name}, cut at {cut}");
            }
        }
    }
}

#[test]
fn holds_nothing_back() {
    let mut restore = restore(EVENTS);
    let mut feed = |bytes: &'static str| {
        String::from_utf8(restore.feed(Bytes::from_static(bytes.as_bytes())).to_vec()).unwrap()
    };
    assert_eq!(feed("data: {\"model\": "), "data: {\"model\": ");
    assert_eq!(feed("\""), r#""my \"model\"""#);
    assert_eq!(feed("serv"), "");
    assert_eq!(feed("ed\",\"a"), ",\"a");
}

#[test]
fn leaves_unreadable_responses_unchanged() {
    let name = ModelName::parse(b"m").unwrap();
    for (content_type, encoding) in [("audio/mpeg", None), ("application/json", Some("gzip")), ("", None)] {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("1"));
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        assert!(Restore::new(&mut headers, &name).is_none(), "{content_type}");
        assert!(headers.contains_key(header::CONTENT_LENGTH));
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![Just("model".to_owned()), Just("x\"model\":\"y".to_owned()), "\\PC{0,6}"];
    let leaf = prop_oneof![
        4 => text.prop_map(Value::from),
        1 => any::<i32>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => Just(json!(1.5)),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from), object(inner),]
    })
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        3 => Just("model".to_owned()),
        3 => Just("response".to_owned()),
        3 => Just("message".to_owned()),
        1 => "[a-z\"\\\\{}]{0,4}",
    ];
    prop::collection::btree_map(key, value, 0..5).prop_map(|members| members.into_iter().collect())
}

/// The expected output: the model is replaced where `serde_json` finds it.
fn oracle(mut value: Value, looks_into_envelope: bool) -> Value {
    let replace = |object: Option<&mut Value>| {
        if let Some(model @ Value::String(_)) = object.and_then(|object| object.get_mut("model")) {
            *model = CLIENT_MODEL.into();
        }
    };
    if looks_into_envelope {
        replace(value.get_mut("response"));
        replace(value.get_mut("message"));
    }
    replace(Some(&mut value));
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn json_bodies_agree_with_serde_for_any_split(
        document in object(value()),
        is_pretty: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let body = if is_pretty { format!("{document:#}") } else { document.to_string() };
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        let out = restored(JSON, &body, &cuts);
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), oracle(document, false));
        prop_assert_eq!(out, restored(JSON, &body, &[]));
    }

    #[test]
    fn events_agree_with_serde_for_any_split(
        documents in prop::collection::vec(object(value()), 1..4),
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let body: String = documents.iter().map(|it| format!("event: e{end}data: {it}{end}{end}")).collect();
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        let out = restored(EVENTS, &body, &cuts);
        let data = out.split(['\r', '\n']).filter_map(|line| line.strip_prefix("data: "));
        let data: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
        let expected: Vec<Value> = documents.into_iter().map(|it| oracle(it, true)).collect();
        prop_assert_eq!(data, expected);
    }

    #[test]
    fn output_does_not_depend_on_the_split_for_arbitrary_bytes(
        body in "[{}\\[\\]\":,\\\\a-fmodelrsp\n\r 0-9]{0,60}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        for (content_type, body) in [
            (JSON, format!("{{{body}")),
            (JSON, format!("{{\"model\":{body}")),
            (EVENTS, format!("data: {{{body}")),
            (EVENTS, format!("data: {{\"response\":{{{body}")),
        ] {
            let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            prop_assert_eq!(restored(content_type, &body, &cuts), restored(content_type, &body, &[]));
        }
    }
}
