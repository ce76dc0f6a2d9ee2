//! Embeddings and transcriptions. They do not use the engine queue. The bodies follow the protocol classes of vLLM; they
//! were not recorded, because the model of the recorded server does not support them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::request::{Failure, failure, not_found};

/// An embedding, and the same values as little-endian floats in base64, the format that the SDKs request.
const EMBEDDING: [f32; 4] = [0.5, -0.5, 0.5, -0.5];
const EMBEDDING_BASE64: &str = "AAAAPwAAAL8AAAA/AAAAvw==";

#[derive(Deserialize)]
struct Body {
    model: String,
    input: Value,
    #[serde(default)]
    encoding_format: Option<String>,
}

pub(crate) fn embeddings(body: &[u8], models: &[String], id: &str, created: u64) -> Result<String, Failure> {
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| failure(400, &format!("1 validation error:\n  {error}"), "Bad Request", None))?;
    if !models.contains(&body.model) {
        return Err(not_found(&body.model, models));
    }
    let inputs = body.input.as_array().map_or(1, Vec::len);
    let embedding = match body.encoding_format.as_deref() {
        Some("base64") => json!(EMBEDDING_BASE64),
        _ => json!(EMBEDDING),
    };
    let data: Vec<Value> = (0..inputs)
        .map(|index| json!({"index": index, "object": "embedding", "embedding": embedding}))
        .collect();
    let tokens = 2 * inputs;
    Ok(json!({
        "id": format!("embd-{id}"),
        "object": "list",
        "created": created,
        "model": body.model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": null},
    })
    .to_string())
}

/// Reads `model` at any position in the form. Of the file only the size is used.
pub(crate) fn transcription(
    content_type: Option<&str>,
    body: &[u8],
    models: &[String],
) -> Result<String, Failure> {
    let boundary = content_type
        .filter(|it| it.starts_with("multipart/form-data"))
        .and_then(|it| it.split("boundary=").nth(1))
        .map(|it| format!("--{}", it.trim_matches('"')));
    let Some(boundary) = boundary else {
        return Err(failure(400, "1 validation error:\n  Field required: file", "Bad Request", Some("file")));
    };
    let part = |name: &str| {
        parts(body, boundary.as_bytes())
            .find_map(|(head, value)| head.contains(&format!("name=\"{name}\"")).then_some(value))
    };
    let Some(file) = part("file") else {
        return Err(failure(400, "1 validation error:\n  Field required: file", "Bad Request", Some("file")));
    };
    let model = String::from_utf8_lossy(part("model").unwrap_or_default()).into_owned();
    if !models.contains(&model) {
        return Err(not_found(&model, models));
    }
    let text = format!("{} bytes of sound", file.len());
    Ok(json!({"text": text, "usage": {"type": "duration", "seconds": 1}}).to_string())
}

/// Head and content of each part of a multipart body.
fn parts<'a>(body: &'a [u8], boundary: &'a [u8]) -> impl Iterator<Item = (String, &'a [u8])> {
    let find = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).position(|window| window == needle);
    let mut rest = body;
    std::iter::from_fn(move || {
        let start = find(rest, boundary)? + boundary.len();
        let part = rest.get(start..)?.strip_prefix(b"\r\n")?;
        let end = find(part, boundary)?;
        rest = &part[end..];
        let head = find(part, b"\r\n\r\n")?;
        let value = part.get(head + 4..end.saturating_sub(2))?;
        Some((String::from_utf8_lossy(&part[..head]).into_owned(), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_model_may_follow_the_file() {
        let body = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF\r\n--x\r\n\
                    Content-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x--\r\n";
        let response =
            transcription(Some("multipart/form-data; boundary=x"), body.as_bytes(), &["m".into()]).unwrap();
        assert!(response.contains("4 bytes of sound"), "{response}");
        let unknown = transcription(Some("multipart/form-data; boundary=x"), body.as_bytes(), &["n".into()]);
        assert_eq!(unknown.unwrap_err().status, 404);
        assert_eq!(transcription(Some("application/json"), b"{}", &[]).unwrap_err().status, 400);
    }

    #[test]
    fn embeddings_are_equal_in_both_encodings() {
        let request = |format: &str| {
            let body = format!(r#"{{"model":"m","input":["a","b"],"encoding_format":"{format}"}}"#);
            let response = embeddings(body.as_bytes(), &["m".into()], "x", 7).unwrap();
            serde_json::from_str::<Value>(&response).unwrap()["data"].clone()
        };
        assert_eq!(request("float")[1]["embedding"], json!([0.5, -0.5, 0.5, -0.5]));
        assert_eq!(request("base64")[1]["embedding"], EMBEDDING_BASE64);
    }
}
