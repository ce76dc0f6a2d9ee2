//! A change of the entries of a Secret.

use std::collections::BTreeMap;

use forebay_resources::ObjectKey;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Value, json};

use super::entry::Entry;

#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) set: BTreeMap<String, Entry>,
    pub(super) remove: Vec<String>,
    /// Labels of the Secret if this creates it.
    pub(super) labels: Option<BTreeMap<String, String>>,
}

impl Change {
    /// For a JSON merge patch (RFC 7396): null removes.
    pub(super) fn data(&self) -> Value {
        let set = self
            .set
            .iter()
            .map(|(name, entry)| (name.clone(), json!(ByteString(entry.write().into_bytes()))));
        let removed = self.remove.iter().map(|name| (name.clone(), Value::Null));
        Value::Object(removed.chain(set).collect())
    }

    /// A Secret of the new entries only.
    pub(super) fn manifest(&self, secret: &ObjectKey) -> Value {
        let texts: BTreeMap<_, _> = self.set.iter().map(|(name, entry)| (name, entry.write())).collect();
        let mut manifest = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": secret.name, "namespace": secret.namespace },
            "type": "Opaque",
            "stringData": texts,
        });
        if let Some(labels) = &self.labels {
            manifest["metadata"]["labels"] = json!(labels);
        }
        manifest
    }
}

/// Names and values of the entries.
pub(super) fn entries(secret: &Secret) -> impl Iterator<Item = (&str, &[u8])> {
    secret.data.iter().flatten().map(|(name, value)| (name.as_str(), value.0.as_slice()))
}

/// The value of an entry, or an error that names the others.
pub(super) fn value<'s>(secret: &'s Secret, name: &str, of: &ObjectKey) -> anyhow::Result<&'s [u8]> {
    const MAX_SHOWN: usize = 10;
    if let Some((_, value)) = entries(secret).find(|(entry, _)| *entry == name) {
        return Ok(value);
    }
    let mut names: Vec<&str> = entries(secret).map(|(name, _)| name).take(MAX_SHOWN + 1).collect();
    if names.is_empty() {
        anyhow::bail!("Secret {of} has no key {name}: it is empty");
    }
    if names.len() > MAX_SHOWN {
        names[MAX_SHOWN] = "…";
    }
    anyhow::bail!("Secret {of} has no key {name}; it has {}", names.join(", "))
}
