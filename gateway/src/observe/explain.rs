use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_epp::schedule;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Request header that asks for an explanation, with the value `1`. Only trusted listeners accept it.
pub(crate) const EXPLAIN: HeaderName = HeaderName::from_static("x-forebay-explain");
/// Response header with the explanation.
pub(crate) const EXPLANATION: HeaderName = HeaderName::from_static("x-forebay-explanation");
/// Maximum endpoints in an explanation.
const MAX_ENDPOINTS: usize = 16;
/// Maximum bytes that a picker may add to an explanation.
const MAX_DECISION_BYTES: usize = schedule::Explanation::MAX_BYTES;

/// How one request was processed. Contains no client data except the model name.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) listener: String,
    #[serde(serialize_with = "header")]
    pub(crate) model: Option<HeaderValue>,
    #[serde(serialize_with = "header")]
    pub(crate) base_model: Option<HeaderValue>,
    /// `namespace/name` of the HTTPRoute and the index of its rule.
    pub(crate) rule: Option<String>,
    /// The InferencePool or Service.
    #[serde(serialize_with = "label")]
    pub(crate) backend: Option<Arc<str>>,
    /// What chose the endpoints.
    pub(crate) picker: Option<String>,
    /// Best first.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// What the picker compared: endpoints with their scores.
    pub(crate) decision: Option<Value>,
    /// Why `decision` is not known.
    pub(crate) no_decision_because: Option<&'static str>,
    pub(crate) served_by: Option<SocketAddr>,
    /// Number of attempts to send the request.
    pub(crate) attempts: Option<usize>,
    /// Time to read the body until the model was known.
    #[serde(rename = "extractMicroseconds", serialize_with = "microseconds")]
    pub(crate) extract: Option<Duration>,
    /// Share of the body whose prompt was read when the in-process picker, or Forebay's picker, chose endpoints.
    #[serde(rename = "bodyShareAtPick")]
    pub(crate) body_share: Option<f64>,
    /// Time to choose endpoints.
    #[serde(rename = "pickMicroseconds", serialize_with = "microseconds")]
    pub(crate) pick: Option<Duration>,
    /// Time from the decision to the response head.
    #[serde(rename = "upstreamMicroseconds", serialize_with = "microseconds")]
    pub(crate) upstream: Option<Duration>,
}

impl Explanation {
    /// An empty explanation if the request asks for one. Removes the request header.
    pub(crate) fn requested(headers: &mut HeaderMap) -> Option<Box<Self>> {
        let value = headers.remove(EXPLAIN)?;
        (value == "1").then(Box::default)
    }

    pub(crate) fn chosen(&mut self, endpoints: &[SocketAddr], picker: Option<String>) {
        self.endpoints = endpoints.iter().take(MAX_ENDPOINTS).copied().collect();
        self.picker = picker;
    }

    /// The picker was asked. `explanation`: a JSON document, if it sent one.
    pub(crate) fn explained(&mut self, explanation: Option<&str>) {
        let Some(json) = explanation else {
            self.no_decision_because = Some("not told by the picker");
            return;
        };
        self.decision = Some(json)
            .filter(|json| json.len() <= MAX_DECISION_BYTES)
            .and_then(|json| serde_json::from_str(json).ok())
            .filter(Value::is_object);
        match &self.decision {
            None => self.no_decision_because = Some("the picker sent an invalid explanation"),
            Some(decision) => self.body_share = self.body_share.or(decision["bodyShare"].as_f64()),
        }
    }

    pub(crate) fn to_header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&ascii(&serde_json::to_string(self).ok()?)).ok()
    }
}

/// Escapes all characters that are not ASCII, because not all clients accept them in headers.
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

fn microseconds<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| u64::try_from(value.as_micros()).unwrap_or(u64::MAX)).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_ascii() {
        let model = Some(HeaderValue::from_bytes("modèle-𝛼".as_bytes()).unwrap());
        let value = Explanation { model, ..Explanation::default() }.to_header_value().unwrap();
        let text = value.to_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap()["model"], "modèle-𝛼");
    }

    #[test]
    fn only_a_short_json_object_is_an_explanation_of_the_picker() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_DECISION_BYTES));
        let invalid = Some("the picker sent an invalid explanation");
        for (json, because) in [
            (None, Some("not told by the picker")),
            (Some("[]"), invalid),
            (Some("{"), invalid),
            (Some(&*long), invalid),
            (Some(r#"{"bodyShare":0.5}"#), None),
        ] {
            let mut explanation = Explanation::default();
            explanation.explained(json);
            assert_eq!(explanation.no_decision_because, because, "{json:?}");
            assert_eq!(explanation.decision.is_some(), because.is_none(), "{json:?}");
            assert_eq!(explanation.body_share, because.is_none().then_some(0.5), "{json:?}");
        }
    }

    #[test]
    fn limits_the_number_of_endpoints() {
        let mut explanation = Explanation::default();
        explanation.chosen(&[SocketAddr::from(([127, 0, 0, 1], 1)); MAX_ENDPOINTS + 1], None);
        assert_eq!(explanation.endpoints.len(), MAX_ENDPOINTS);
    }
}
