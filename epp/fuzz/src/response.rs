//! Responses: the client's model is restored where a JSON parser finds the model, nothing else changes, and usage is read.

use std::time::Duration;

use bytes::Bytes;
use forebay_openai::{Finding, ModelName, ResponseScanner, Restore, Usage, UsageFilter};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use memchr::memmem;
use serde_json::Value;

use crate::outcome::headers;
use crate::sse_reference::events;

const CLIENT_MODEL: &str = "my \"model\"";

/// Reads and restores a JSON response and an event stream.
pub fn response(data: &[u8]) {
    let (seed, body) = forebay_fuzz::seed(data);
    let text = str::from_utf8(body).ok();

    let json = headers(CONTENT_TYPE, "application/json");
    let restored = restore_split(&json, body, seed);
    if let Some(Ok(document @ Value::Object(_))) = text.map(serde_json::from_str::<Value>) {
        let out: Value = serde_json::from_slice(&restored).unwrap();
        assert_eq!(out, with_client_model(document.clone(), false));
        check_usage(body, &document, &find_split(&json, body, seed));
    } else {
        find_split(&json, body, seed);
    }

    let stream = headers(CONTENT_TYPE, "text/event-stream");
    find_split(&stream, body, seed);
    let restored = restore_split(&stream, body, seed);
    // Clients remove a byte order mark at the start. Engines do not send one.
    if let Some(text) = text.filter(|text| !text.starts_with('\u{feff}')) {
        let restored = str::from_utf8(&restored).unwrap();
        let (before, after) = (events(text), events(restored));
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            if let Ok(document @ Value::Object(_)) = serde_json::from_str::<Value>(before) {
                let out: Value = serde_json::from_str(after).unwrap();
                assert_eq!(out, with_client_model(document, true), "{before}");
            }
        }
        check_filter(&before, &filter_split(body, seed));
    }
}

/// Only events without choices are removed.
fn check_filter(before: &[String], filtered: &[u8]) {
    let after = events(str::from_utf8(filtered).unwrap());
    let mut after = after.iter().peekable();
    for event in before {
        if after.next_if_eq(&event).is_none() {
            let removed: Value = serde_json::from_str(event).unwrap();
            assert_eq!(removed["choices"], Value::Array(Vec::new()), "{event}");
            assert!(removed.get("usage").is_some(), "{event}");
        }
    }
    assert_eq!(after.next(), None);
}

fn filter_split(body: &[u8], seed: u8) -> Vec<u8> {
    let filtered = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut filter = UsageFilter::default();
        let mut out: Vec<u8> = pieces.flat_map(|piece| filter.feed(Bytes::copy_from_slice(piece))).collect();
        out.extend(filter.finish().unwrap_or_default());
        out
    };
    let whole = filtered(&mut std::iter::once(body));
    for seed in [0, seed] {
        assert_eq!(filtered(&mut forebay_fuzz::pieces(body, seed)), whole, "the split matters");
    }
    whole
}

fn restore_split(headers: &HeaderMap, body: &[u8], seed: u8) -> Vec<u8> {
    let name = ModelName::parse(CLIENT_MODEL.as_bytes()).unwrap();
    let restored = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut restore = Restore::new(&mut headers.clone(), &name).unwrap();
        pieces.flat_map(|piece| restore.feed(Bytes::copy_from_slice(piece))).collect::<Vec<u8>>()
    };
    let whole = restored(&mut std::iter::once(body));
    for seed in [0, seed] {
        assert_eq!(restored(&mut forebay_fuzz::pieces(body, seed)), whole, "the split matters");
    }
    whole
}

/// What the scanner finds. Times are set to zero.
fn find_split(headers: &HeaderMap, body: &[u8], seed: u8) -> Vec<Finding> {
    let found = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut all = Vec::new();
        let mut report = |finding| match finding {
            Finding::NextEvent(_) => all.push(Finding::NextEvent(Duration::ZERO)),
            other => all.push(other),
        };
        let mut scanner = ResponseScanner::new(headers);
        pieces.for_each(|piece| scanner.feed(piece, &mut report));
        scanner.finish(report);
        all
    };
    let whole = found(&mut std::iter::once(body));
    for seed in [0, seed] {
        assert_eq!(found(&mut forebay_fuzz::pieces(body, seed)), whole, "the split matters");
    }
    whole
}

/// The document in which the model is replaced where serde_json finds it.
fn with_client_model(mut document: Value, looks_into_envelope: bool) -> Value {
    let replace = |object: Option<&mut Value>| {
        if let Some(model @ Value::String(_)) = object.and_then(|object| object.get_mut("model")) {
            *model = CLIENT_MODEL.into();
        }
    };
    if looks_into_envelope {
        replace(document.get_mut("response"));
        replace(document.get_mut("message"));
    }
    replace(Some(&mut document));
    document
}

/// Compares the usage of a document that has one, in the form that engines write.
fn check_usage(body: &[u8], document: &Value, found: &[Finding]) {
    let count = |name: &str| memmem::find_iter(body, &format!("\"{name}\"")).count();
    if count("usage") == 0 {
        return assert_eq!(found, []);
    }
    let Some(usage) = document.get("usage").and_then(Value::as_object) else { return };
    const NAMES: [&[&str]; 7] = [
        &["usage"],
        &["prompt_tokens", "input_tokens"],
        &["completion_tokens", "output_tokens"],
        &["prompt_tokens_details", "input_tokens_details"],
        &["completion_tokens_details", "output_tokens_details"],
        &["cached_tokens", "cache_read_input_tokens"],
        &["reasoning_tokens"],
    ];
    let has_one_reading = NAMES.iter().all(|names| names.iter().map(|name| count(name)).sum::<usize>() <= 1);
    // An escape could hide another spelling of a name. Longer objects are not read.
    if !has_one_reading || body.contains(&b'\\') || body.len() > 4096 {
        return;
    }
    let member = |names: &[&str]| names.iter().find_map(|name| usage.get(*name)).unwrap_or(&Value::Null);
    let [prompt, completion] = [NAMES[1], NAMES[2]].map(member);
    let detail = |names: &[&str], name: &str| member(names).get(name).and_then(Value::as_u64);
    // A count that is not a number makes the object unreadable.
    if [prompt, completion].iter().all(|tokens| tokens.is_null() || tokens.is_u64()) {
        let usage = Usage {
            prompt_tokens: prompt.as_u64(),
            completion_tokens: completion.as_u64(),
            cached_tokens: detail(NAMES[3], "cached_tokens")
                .or(member(&["cache_read_input_tokens"]).as_u64()),
            reasoning_tokens: detail(NAMES[4], "reasoning_tokens"),
        };
        let is_known = usage != Usage::default();
        assert_eq!(found, is_known.then_some(Finding::Usage(usage)).as_slice(), "{document}");
    }
}
