//! Parses `GET /v1/models`: the models that an engine serves.

use serde::Deserialize;

use forebay_telemetry::v1::Model;

#[derive(Deserialize)]
struct List {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    parent: Option<String>,
    max_model_len: Option<u32>,
}

pub(super) fn parse(body: &[u8]) -> Result<Vec<Model>, serde_json::Error> {
    let list: List = serde_json::from_slice(body)?;
    Ok(list
        .data
        .into_iter()
        .map(|entry| Model { id: entry.id, parent: entry.parent, max_model_len: entry.max_model_len })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_their_base_as_parent() {
        let body = br#"{"object":"list","data":[
            {"id":"base","object":"model","max_model_len":2048,"parent":null,"permission":[]},
            {"id":"lora","object":"model","root":"/x","parent":"base"}]}"#;
        let models = parse(body).unwrap();
        assert_eq!(models[0], Model { id: "base".into(), parent: None, max_model_len: Some(2048) });
        assert_eq!(models[1], Model { id: "lora".into(), parent: Some("base".into()), max_model_len: None });
        assert!(parse(b"{}").is_err());
    }
}
