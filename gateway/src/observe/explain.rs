use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Serialize, Serializer};

/// Asks for an explanation, with the value `1`; trusted listeners alone let it in.
pub(crate) const EXPLAIN: HeaderName = HeaderName::from_static("x-forebay-explain");
/// The explanation, on the response.
pub(crate) const EXPLANATION: HeaderName = HeaderName::from_static("x-forebay-explanation");
/// Endpoints that are named; a picker may give many to fall back on.
const MAX_ENDPOINTS: usize = 16;

/// What became of one request, as far as it came. It holds nothing of the client's but the model's name.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) listener: String,
    #[serde(serialize_with = "header")]
    pub(crate) model: Option<HeaderValue>,
    #[serde(serialize_with = "header")]
    pub(crate) base_model: Option<HeaderValue>,
    /// `namespace/name` of the HTTPRoute, and the rule's place in it.
    pub(crate) rule: Option<String>,
    /// The InferencePool or Service.
    #[serde(serialize_with = "label")]
    pub(crate) backend: Option<Arc<str>>,
    /// Who gave the endpoints.
    pub(crate) picker: Option<String>,
    /// Best first.
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) served_by: Option<SocketAddr>,
    /// How often the request was sent, or a connection for it tried.
    pub(crate) attempts: Option<usize>,
    /// Reading the body until the model was known, microseconds.
    #[serde(rename = "extractMicroseconds", serialize_with = "microseconds")]
    pub(crate) extract: Option<Duration>,
    /// Having endpoints chosen, microseconds.
    #[serde(rename = "pickMicroseconds", serialize_with = "microseconds")]
    pub(crate) pick: Option<Duration>,
    /// From there to the head of the response, microseconds: connecting, sending, waiting.
    #[serde(rename = "upstreamMicroseconds", serialize_with = "microseconds")]
    pub(crate) upstream: Option<Duration>,
}

impl Explanation {
    /// Takes the question out of a request's headers.
    pub(crate) fn asked(headers: &mut HeaderMap) -> Option<Box<Self>> {
        let value = headers.remove(EXPLAIN)?;
        (value == "1").then(Box::default)
    }

    pub(crate) fn chosen(&mut self, endpoints: &[SocketAddr], picker: Option<String>) {
        self.endpoints = endpoints.iter().take(MAX_ENDPOINTS).copied().collect();
        self.picker = picker;
    }

    pub(crate) fn to_header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&ascii(&serde_json::to_string(self).ok()?)).ok()
    }
}

/// JSON says every character in ASCII too, and not all clients read others in headers.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            text.push(c);
        } else {
            let mut units = [0; 2];
            text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

#[expect(clippy::ref_option, reason = "serde's interface")]
fn header<S: Serializer>(value: &Option<HeaderValue>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes())).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde's interface")]
fn label<S: Serializer>(value: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde's interface")]
fn microseconds<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| u64::try_from(value.as_micros()).unwrap_or(u64::MAX)).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_every_name_in_ascii() {
        let model = Some(HeaderValue::from_bytes("modèle-𝛼".as_bytes()).unwrap());
        let value = Explanation { model, ..Explanation::default() }.to_header_value().unwrap();
        let text = value.to_str().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap()["model"], "modèle-𝛼");
    }

    #[test]
    fn many_endpoints_are_some() {
        let mut explanation = Explanation::default();
        explanation.chosen(&[SocketAddr::from(([127, 0, 0, 1], 1)); MAX_ENDPOINTS + 1], None);
        assert_eq!(explanation.endpoints.len(), MAX_ENDPOINTS);
    }
}
