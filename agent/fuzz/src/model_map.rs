//! Model maps: what is read is what the expression says.

use std::collections::HashMap;

use forebay_resources::parse_model_map;
use serde_json::Value;

const INDEX: &str = "[json(request.body).model]";

/// Parses an expression, and a JSON object as the map of one.
pub fn model_map(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(map) = parse_model_map(text) {
        assert_eq!(parse_model_map(&expression(&map)), Ok(map), "another spelling is another map");
    }
    // A JSON object of strings without escapes is an expression with the same meaning.
    let Ok(Value::Object(object)) = serde_json::from_str::<Value>(text) else { return };
    let strings: Option<HashMap<String, String>> =
        object.into_iter().map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect();
    let parsed = parse_model_map(&format!("{text}{INDEX}"));
    match (strings, parsed) {
        (Some(strings), Ok(parsed)) => assert_eq!(parsed, strings),
        (None, Ok(parsed)) => panic!("a value is not a string: {parsed:?}"),
        (Some(_), Err(reason)) => {
            assert!(text.contains('\\') || reason.contains("duplicate"), "refused: {reason}");
        }
        (None, Err(_)) => {}
    }
}

/// The map as an expression.
fn expression(map: &HashMap<String, String>) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let entries: Vec<String> =
        map.iter().map(|(key, value)| format!("{}: {}", quoted(key), quoted(value))).collect();
    format!("{{{}}}{INDEX}", entries.join(", "))
}
