//! Parses `GET /v1/models`: the models that an engine serves.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use forebay_telemetry::v1::Model;

/// Maximum models kept per endpoint.
const MAX_MODELS: usize = 1000;
/// Maximum bytes of the names of all models of an endpoint. A frame of telemetry has all endpoints of a node.
const MAX_NAME_BYTES: usize = 32 << 10;

/// The served models within the limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Models {
    pub(super) list: Vec<Model>,
    /// Models over a limit.
    pub(super) omitted: u32,
}

#[derive(Deserialize)]
struct Response {
    data: Models,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    parent: Option<String>,
    max_model_len: Option<u32>,
}

pub(super) fn parse(body: &[u8]) -> Result<Models, serde_json::Error> {
    serde_json::from_slice(body).map(|response: Response| response.data)
}

impl<'de> Deserialize<'de> for Models {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ModelsVisitor)
    }
}

/// Entries over a limit are dropped while the list is parsed.
struct ModelsVisitor;

impl<'de> Visitor<'de> for ModelsVisitor {
    type Value = Models;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of models")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Models, A::Error> {
        let mut models = Models::default();
        let mut name_bytes = 0;
        while let Some(Entry { id, parent, max_model_len }) = entries.next_element()? {
            let bytes = id.len() + parent.as_ref().map_or(0, String::len);
            if models.list.len() < MAX_MODELS && name_bytes + bytes <= MAX_NAME_BYTES {
                name_bytes += bytes;
                models.list.push(Model { id, parent, max_model_len });
            } else {
                models.omitted = models.omitted.saturating_add(1);
            }
        }
        Ok(models)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_their_base_as_parent() {
        let body = br#"{"object":"list","data":[
            {"id":"base","object":"model","max_model_len":2048,"parent":null,"permission":[]},
            {"id":"lora","object":"model","root":"/x","parent":"base"}]}"#;
        let Models { list, omitted } = parse(body).unwrap();
        assert_eq!(list[0], Model { id: "base".into(), parent: None, max_model_len: Some(2048) });
        assert_eq!(list[1], Model { id: "lora".into(), parent: Some("base".into()), max_model_len: None });
        assert_eq!(omitted, 0);
        assert!(parse(b"{}").is_err());
    }

    #[test]
    fn models_over_the_limits_are_counted() {
        let body = |ids: Vec<String>| {
            let entries: Vec<String> = ids.iter().map(|id| format!(r#"{{"id":"{id}"}}"#)).collect();
            format!(r#"{{"data":[{}]}}"#, entries.join(","))
        };
        let many = parse(body((0..3000).map(|n| n.to_string()).collect()).as_bytes()).unwrap();
        assert_eq!((many.list.len(), many.omitted), (MAX_MODELS, 2000));
        let long = parse(body(vec!["x".repeat(7 << 20), "short".into()]).as_bytes()).unwrap();
        assert_eq!((long.list[0].id.as_str(), long.omitted), ("short", 1));
        let large = parse(body((0..900).map(|_| "y".repeat(1000)).collect()).as_bytes()).unwrap();
        assert!(large.list.iter().map(|model| model.id.len()).sum::<usize>() <= MAX_NAME_BYTES);
        assert_eq!(large.list.len() + large.omitted as usize, 900);
    }
}
